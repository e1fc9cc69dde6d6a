// What the chat page knows and can do; no drawing. Every change ends in `changed()`.
import { ApiError, list_models, stream_chat, stream_completion, type ApiMessage, type Delta, type Model } from "../common/api";
import { answer_stats } from "./stats";
import type { Conversation, Message, Settings, Store } from "./store";

const kSaveEvery = 1000;   // ms, while an answer comes
const kLoadRetry = 2000;   // ms between questions while the model is being loaded
const kCurrentKey = "sluice.current";
const kModelKey = "sluice.model";
const kLeftKey = "sluice.left";

const kDefaultSettings: Settings = {
  system: "",
  sampling: { temperature: null, top_p: null, top_k: null, min_p: null, repetition_penalty: null, max_tokens: null, seed: null },
};

function new_message(role: Message["role"], content: string): Message {
  return { id: new_id(), role, content, reasoning: "", thinking_ms: 0, note: "", error: "", stats: null };
}

/// crypto.randomUUID exists only on https and localhost; the page also works over plain http.
function new_id(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function remembered(key: string): string {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // the next visit begins anew
  }
}

export class State {
  models: Model[] = [];
  model: Model | null = null;
  server_note = "";      // why there is no model yet
  needs_key = false;     // the server answered 401
  conversations: Conversation[] = [];
  current: Conversation;
  running: Message | null = null;       // the answer that is being written
  running_in: Conversation | null = null;
  removed: Conversation | null = null;  // can be brought back
  announcement = "";                    // for screen readers

  private abort: AbortController | null = null;
  private last_save = 0;
  private retry = 0;
  private listeners = new Set<() => void>();

  private constructor(readonly store: Store) {
    this.current = this.blank(kDefaultSettings);
  }

  static async load(store: Store): Promise<State> {
    const state = new State(store);
    state.conversations = await store.all();
    state.take_left();
    state.current = state.conversations.find((c) => c.id === remembered(kCurrentKey)) ?? state.blank(kDefaultSettings);
    return state;
  }

  listen(listener: () => void): void {
    this.listeners.add(listener);
  }

  changed(): void {
    for (const listener of this.listeners) listener();
  }

  /// Asks for the models until there is one: a server that loads answers 503 meanwhile.
  async find_models(): Promise<void> {
    clearTimeout(this.retry);
    try {
      this.models = await list_models();
      this.model = this.models.find((m) => m.id === remembered(kModelKey)) ?? this.models[0] ?? null;
      this.server_note = this.model ? "" : "The server has no model.";
      this.needs_key = false;
      this.fit_blank();
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      this.needs_key = status === 401;
      this.server_note = error instanceof Error ? error.message : String(error);
      if (status === 503 || status === 0) {
        this.retry = window.setTimeout(() => this.find_models(), kLoadRetry);
      }
    }
    this.changed();
  }

  /// The page is about to be left: too late for the store, which writes when it finds the time.
  leave(): void {
    if (this.running_in) remember(kLeftKey, JSON.stringify(this.running_in));
  }

  /// What leave() left.
  private take_left(): void {
    const text = remembered(kLeftKey);
    if (!text) return;
    remember(kLeftKey, "");
    const left: Conversation = JSON.parse(text);
    if (!this.conversations.some((c) => c.id === left.id)) return;  // deleted meanwhile, in another window
    this.conversations = this.conversations.filter((c) => c.id !== left.id);
    this.keep(left);
  }

  choose_model(id: string): void {
    this.model = this.models.find((m) => m.id === id) ?? this.model;
    if (this.model) remember(kModelKey, this.model.id);
    this.fit_blank();
    this.changed();
  }

  /// A conversation that has not begun is what the model can do.
  private fit_blank(): void {
    if (this.model && !this.conversations.includes(this.current)) {
      this.current.kind = this.model.is_chat ? "chat" : "completion";
    }
  }

  private blank(settings: Settings): Conversation {
    const kind = this.model && !this.model.is_chat ? "completion" : "chat";
    return {
      id: new_id(), kind, title: "", updated: Date.now(), settings: structuredClone(settings),
      messages: [], text: "", written_from: 0, written: null,
    };
  }

  /// The new conversation keeps the settings of the one before.
  start_new(): void {
    this.open(this.blank(this.current.settings));
  }

  open(conversation: Conversation): void {
    this.current = conversation;
    remember(kCurrentKey, conversation.id);
    this.changed();
  }

  rename(conversation: Conversation, title: string): void {
    if (title.trim()) conversation.title = title.trim();
    this.save(conversation);
    this.changed();
  }

  remove(conversation: Conversation): void {
    if (this.running_in === conversation) this.stop();
    this.conversations = this.conversations.filter((c) => c !== conversation);
    this.removed = conversation;
    this.store.remove(conversation.id);
    if (this.current === conversation) this.start_new();
    this.changed();
  }

  bring_back(): void {
    if (!this.removed) return;
    const conversation = this.removed;
    this.removed = null;
    this.keep(conversation);
    this.open(conversation);
  }

  forget_removed(): void {
    this.removed = null;
    this.changed();
  }

  change_settings(settings: Settings): void {
    this.current.settings = settings;
    if (this.conversations.includes(this.current)) this.save(this.current);
    this.changed();
  }

  send(text: string): void {
    if (this.running || !text.trim()) return;
    const conversation = this.current;
    conversation.messages.push(new_message("user", text));
    if (!conversation.title) conversation.title = title_of(text);
    this.answer(conversation);
  }

  /// Asks again for the answer `message`; what came after it is dropped.
  regenerate(message: Message): void {
    if (this.running) return;
    const conversation = this.current;
    conversation.messages.length = conversation.messages.indexOf(message);
    this.answer(conversation);
  }

  /// An edited question is asked again, and what came after it dropped; an edited answer only changes.
  edit(message: Message, text: string): void {
    if (this.running || !text.trim()) return;
    const conversation = this.current;
    const index = conversation.messages.indexOf(message);
    conversation.messages[index] = { ...message, content: text };
    if (message.role === "user") {
      conversation.messages.length = index + 1;
      this.answer(conversation);
    } else {
      this.save(conversation);
      this.changed();
    }
  }

  stop(): void {
    this.abort?.abort();
  }

  private answer(conversation: Conversation): void {
    const messages: ApiMessage[] = conversation.messages
      .filter((m) => m.role === "user" || m.content)
      .map((m) => ({ role: m.role, content: m.content }));
    if (conversation.settings.system.trim()) messages.unshift({ role: "system", content: conversation.settings.system });
    const message = new_message("assistant", "");
    conversation.messages.push(message);
    this.run(conversation, message, (model, signal) => stream_chat(model, messages, conversation.settings.sampling, signal),
      (text) => (message.content += text));
  }

  /// Continues the text of a completion.
  complete(): void {
    const conversation = this.current;
    if (this.running || !conversation.text) return;
    if (!conversation.title) conversation.title = title_of(conversation.text);
    conversation.written_from = conversation.text.length;
    conversation.written = new_message("assistant", "");
    const prompt = conversation.text;
    this.run(conversation, conversation.written,
      (model, signal) => stream_completion(model, prompt, conversation.settings.sampling, signal),
      (text) => (conversation.text += text));
  }

  /// Takes the last continuation back.
  undo_completion(): void {
    if (this.running) return;
    this.set_text(this.current.text.slice(0, this.current.written_from));
  }

  set_text(text: string): void {
    const conversation = this.current;
    conversation.written = null;  // the mark of what was written would be wrong
    conversation.text = text;
    if (!conversation.title && text.trim()) conversation.title = title_of(text);
    this.keep(conversation);
    this.changed();
  }

  private async run(conversation: Conversation, message: Message,
                    ask: (model: string, signal: AbortSignal) => AsyncGenerator<Delta>, add: (text: string) => void) {
    this.keep(conversation);
    remember(kCurrentKey, conversation.id);
    this.abort = new AbortController();
    this.running = message;
    this.running_in = conversation;
    this.announcement = "Writing";
    this.changed();
    const start = performance.now();
    let first: number | null = null;
    let pieces = 0;
    try {
      for await (const delta of ask(this.model?.id ?? "", this.abort.signal)) {
        const now = performance.now();
        if (delta.reasoning) {
          message.reasoning += delta.reasoning;
          message.thinking_ms = now - start;
        }
        if (delta.text) add(delta.text);
        if (delta.text || delta.reasoning) {
          first ??= now;
          pieces += 1;
        }
        message.stats = answer_stats(message.stats, delta.usage, pieces, first === null ? 0 : now - first);
        if (delta.finish === "length") message.note = "Ended at the limit of tokens.";
        this.save_sometimes(conversation);
        this.changed();
      }
      this.announcement = "The answer is complete";
    } catch (error) {
      if (this.abort.signal.aborted) {
        message.note = "Stopped.";
        this.announcement = "Stopped";
      } else {
        message.error = error instanceof Error ? error.message : String(error);
        this.announcement = `Error: ${message.error}`;
        if (error instanceof ApiError && error.status === 401) this.needs_key = true;
      }
    }
    this.running = this.running_in = this.abort = null;
    if (this.conversations.includes(conversation)) this.save(conversation);
    this.changed();
  }

  private keep(conversation: Conversation): void {
    conversation.updated = Date.now();
    this.conversations = [conversation, ...this.conversations.filter((c) => c !== conversation)];
    this.save(conversation);
  }

  private save_sometimes(conversation: Conversation): void {
    if (performance.now() - this.last_save > kSaveEvery && this.conversations.includes(conversation)) this.save(conversation);
  }

  private save(conversation: Conversation): void {
    this.last_save = performance.now();
    this.store.put(conversation).catch((error) => {
      this.server_note = `This browser could not keep the conversation: ${error?.message ?? error}`;
      this.changed();
    });
  }
}

function title_of(text: string): string {
  const line = text.trim().split("\n", 1)[0]!;
  return line.length > 48 ? line.slice(0, 47).trimEnd() + "…" : line;
}
