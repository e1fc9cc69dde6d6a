// Conversations in the browser's IndexedDB.
import type { Sampling } from "../common/api";

/// What is known of how an answer came about. Rates are per second.
export interface Stats {
  tokens: number;
  rate: number | null;
  is_estimate: boolean;  // counted here, by pieces of text, not by the server
  draft_proposed: number;
  draft_accepted: number;
  prompt_tokens: number;
  cached_tokens: number;
}

export interface Message {
  id: string;
  role: "user" | "assistant";
  content: string;
  reasoning: string;
  thinking_ms: number;
  note: string;   // how the answer ended, where that is not as usual
  error: string;  // the server's message
  stats: Stats | null;
}

export interface Settings {
  system: string;
  sampling: Sampling;
}

export interface Conversation {
  id: string;
  kind: "chat" | "completion";
  title: string;  // "" until there is something to name it after
  updated: number;  // ms since 1970
  settings: Settings;
  messages: Message[];  // of a chat
  text: string;         // of a completion
  written_from: number; // where the last continuation begins in `text`
  written: Message | null;  // notes, error and figures of the last continuation
}

const kTable = "conversations";

export class Store {
  private constructor(private readonly db: IDBDatabase | null) {}

  /// Without IndexedDB (some private windows) the store keeps nothing: `is_kept` says so.
  static async open(): Promise<Store> {
    try {
      const request = indexedDB.open("sluice", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(kTable, { keyPath: "id" });
      return new Store(await settled(request));
    } catch {
      return new Store(null);
    }
  }

  get is_kept(): boolean {
    return this.db !== null;
  }

  async all(): Promise<Conversation[]> {
    if (!this.db) return [];
    const list: Conversation[] = await settled(this.db.transaction(kTable).objectStore(kTable).getAll());
    return list.sort((a, b) => b.updated - a.updated);
  }

  async put(conversation: Conversation): Promise<void> {
    if (this.db) await settled(this.db.transaction(kTable, "readwrite").objectStore(kTable).put(conversation));
  }

  async remove(id: string): Promise<void> {
    if (this.db) await settled(this.db.transaction(kTable, "readwrite").objectStore(kTable).delete(id));
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
