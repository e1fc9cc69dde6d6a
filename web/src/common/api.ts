// The server's API as far as the page uses it. Addresses are relative, so that a proxy may serve the page below a path.
import { read_events } from "./sse";

const kKeyName = "sluice.api_key";

/// The key sent with every request; kept in this browser. "" sends none.
export function api_key(): string {
  try {
    return localStorage.getItem(kKeyName) ?? "";
  } catch {
    return "";
  }
}

export function set_api_key(key: string): void {
  try {
    if (key) localStorage.setItem(kKeyName, key);
    else localStorage.removeItem(kKeyName);
  } catch {
    // asked for again next time
  }
}

/// An answer other than 200, or none at all (status 0). The message is the server's own.
export class ApiError extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

export interface Model {
  id: string;
  is_chat: boolean;
  max_len: number | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_cache_hit_tokens?: number;
  sluice?: {
    prompt_seconds?: number;
    generation_seconds?: number;
    draft_proposed?: number;
    draft_accepted?: number;
  };
}

/// One step of a streamed answer. Fields that a step lacks are absent.
export interface Delta {
  text?: string;
  reasoning?: string;
  finish?: string;
  usage?: Usage;
}

export interface Sampling {
  temperature: number | null;
  top_p: number | null;
  top_k: number | null;
  min_p: number | null;
  repetition_penalty: number | null;
  max_tokens: number | null;
  seed: number | null;
}

export interface ApiMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export async function request(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body) headers["Content-Type"] = "application/json";
  if (api_key()) headers.Authorization = `Bearer ${api_key()}`;
  let response: Response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body ? JSON.stringify(body) : undefined,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (!response.ok) throw new ApiError(response.status, await error_message(response));
  return response;
}

async function error_message(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const message = JSON.parse(text)?.error?.message;
    if (typeof message === "string" && message) return message;
  } catch {
    // not JSON: a proxy's page, say
  }
  return `The server answered ${response.status}${response.statusText ? ` (${response.statusText})` : ""}.`;
}

export async function list_models(): Promise<Model[]> {
  const body = await (await request("v1/models")).json();
  if (!Array.isArray(body?.data)) throw new ApiError(0, "v1/models: expected a list of models.");
  return body.data.map((model: any) => ({
    id: String(model.id),
    is_chat: model.chat !== false,
    max_len: typeof model.max_model_len === "number" ? model.max_model_len : null,
  }));
}

/// Settings that are left empty are left to the server.
function sampling_fields(sampling: Sampling): Record<string, number> {
  const fields: Record<string, number> = {};
  for (const [name, value] of Object.entries(sampling)) if (value !== null) fields[name] = value;
  return fields;
}

export function stream_chat(model: string, messages: ApiMessage[], sampling: Sampling, signal: AbortSignal) {
  return stream("v1/chat/completions", { model, messages, ...sampling_fields(sampling) }, signal);
}

/// What a text is continued by where nothing else is set: servers have 16, which is little to read.
export const kCompletionTokens = 256;

export function stream_completion(model: string, prompt: string, sampling: Sampling, signal: AbortSignal) {
  return stream("v1/completions", { model, prompt, max_tokens: kCompletionTokens, ...sampling_fields(sampling) }, signal);
}

async function* stream(path: string, body: object, signal: AbortSignal): AsyncGenerator<Delta> {
  const response = await request(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  if (!response.body) throw new ApiError(response.status, "The server's answer has no body.");
  let is_done = false;
  try {
    for await (const data of read_events(response.body)) {
      if (data === "[DONE]") {
        is_done = true;
        break;
      }
      yield parse_delta(data);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "The connection to the server broke off.");
  }
  if (!is_done && !signal.aborted) throw new ApiError(0, "The server ended the answer before it was complete.");
}

function parse_delta(data: string): Delta {
  let event: any;
  try {
    event = JSON.parse(data);
  } catch {
    throw new ApiError(0, "The server sent something that is not JSON.");
  }
  if (event?.error) throw new ApiError(0, String(event.error.message ?? "The server reports an error."));
  const choice = event?.choices?.[0];
  const delta: Delta = {};
  const text = choice?.delta?.content ?? choice?.text;
  const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
  if (text) delta.text = String(text);
  if (reasoning) delta.reasoning = String(reasoning);
  if (choice?.finish_reason) delta.finish = String(choice.finish_reason);
  if (event?.usage) delta.usage = event.usage;
  return delta;
}
