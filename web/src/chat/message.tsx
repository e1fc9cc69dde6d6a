import { Component } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { AgainIcon, CheckIcon, CopyIcon, PencilIcon } from "../common/icons";
import { focus_input } from "./focus";
import { markdown_blocks, type Block } from "./markdown";
import type { State } from "./state";
import { stats_parts } from "./stats";
import type { Message } from "./store";

interface MessageProps {
  state: State;
  message: Message;
  text: string;  // message.content, so that a change of it is seen
  is_last: boolean;
  is_running: boolean;
  can_act: boolean;
}

/// Redraws only where something changed: a long conversation costs nothing while its last answer grows.
export class MessageView extends Component<MessageProps> {
  shouldComponentUpdate(next: MessageProps): boolean {
    const now = this.props;
    return next.is_running || now.is_running || next.message !== now.message || next.text !== now.text ||
      next.is_last !== now.is_last || next.can_act !== now.can_act;
  }

  render(props: MessageProps) {
    return <MessageBody {...props} />;
  }
}

function MessageBody({ state, message, is_last, is_running, can_act }: MessageProps) {
  const [is_edited, set_edited] = useState(false);
  const is_user = message.role === "user";
  if (is_edited) {
    const close = () => {
      set_edited(false);
      focus_input();
    };
    return <Editor message={message} cancel={close} save={(text) => (close(), state.edit(message, text))} />;
  }
  return (
    <article class={`message ${message.role}${is_last ? " last" : ""}`} aria-label={is_user ? "You" : "Answer"} aria-busy={is_running}>
      {is_user ? <p class="said">{message.content}</p> : <Answer message={message} is_running={is_running} />}
      {!is_running && (
        <footer>
          {message.stats && <Figures message={message} />}
          <span class="actions">
            {message.content && <CopyButton text={message.content} />}
            {can_act && message.content && (
              <button type="button" class="icon" aria-label="Edit" title="Edit" onClick={() => set_edited(true)}><PencilIcon /></button>
            )}
            {can_act && !is_user && (
              <button type="button" class="icon" aria-label="Regenerate" title="Regenerate" 
                onClick={() => (state.regenerate(message), focus_input())}>
                <AgainIcon />
              </button>
            )}
          </span>
        </footer>
      )}
      {is_running && message.stats && message.stats.tokens > 0 && <footer><Figures message={message} /></footer>}
    </article>
  );
}

function Answer({ message, is_running }: { message: Message; is_running: boolean }) {
  const is_thinking = is_running && !message.content;
  return (
    <>
      {message.reasoning && (
        <details class="thinking">
          <summary>{is_thinking ? <span class="pulse">Thinking</span> : `Thought for ${duration(message.thinking_ms)}`}</summary>
          <Markdown text={message.reasoning} is_growing={is_thinking} />
        </details>
      )}
      <Markdown text={message.content} is_growing={is_running} />
      {is_thinking && !message.reasoning && <p class="waiting" aria-label="Waiting"><i /><i /><i /></p>}
      <Ending message={message} />
    </>
  );
}

/// How the answer ended, where that is not as usual.
export function Ending({ message }: { message: Message }) {
  return (
    <>
      {message.note && <p class="note">{message.note}</p>}
      {message.error && <p class="error" role="alert">{message.error}</p>}
    </>
  );
}

export function Figures({ message }: { message: Message }) {
  return <span class="figures">{stats_parts(message.stats!).map((part) => <span key={part}>{part}</span>)}</span>;
}

function duration(ms: number): string {
  const seconds = Math.max(1, Math.round(ms / 1000));
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/// A text that grows is read anew at most a quarter of the time: one that takes long is drawn less often.
function Markdown({ text, is_growing }: { text: string; is_growing: boolean }) {
  const last = useRef({ text: "", blocks: [] as Block[], cost: 0, time: 0 });
  const begin = performance.now();
  if (text !== last.current.text && (!is_growing || begin - last.current.time > 3 * last.current.cost)) {
    const blocks = markdown_blocks(text);
    const time = performance.now();
    last.current = { text, blocks, cost: time - begin, time };
  }
  const { blocks } = last.current;
  if (blocks.length === 0) return null;
  return <div class="markdown">{blocks.map((block, i) => <BlockView key={i} block={block} />)}</div>;
}

function BlockView({ block }: { block: Block }) {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const had_code = place.current!.querySelector("pre")?.scrollLeft ?? 0;
    place.current!.replaceChildren(block.render());
    const code = place.current!.querySelector("pre");
    if (code && had_code) code.scrollLeft = had_code;
  }, [block.raw]);
  return <div class="block" ref={place} onClick={copy_code} />;
}

/// The buttons that the Markdown puts at code.
function copy_code(event: MouseEvent): void {
  const button = (event.target as HTMLElement).closest<HTMLElement>("[data-copy]");
  if (!button) return;
  copy(button.closest(".code")!.querySelector("code")!.textContent ?? "");
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function CopyButton({ text }: { text: string }) {
  const [is_done, set_done] = useState(false);
  useEffect(() => {
    if (!is_done) return;
    const timer = setTimeout(() => set_done(false), 1500);
    return () => clearTimeout(timer);
  }, [is_done]);
  return (
    <button type="button" class="icon" aria-label={is_done ? "Copied" : "Copy"} title="Copy"
      onClick={() => (copy(text), set_done(true))}>{is_done ? <CheckIcon /> : <CopyIcon />}</button>
  );
}

/// The clipboard API exists only on https and localhost.
function copy(text: string): void {
  if (navigator.clipboard) {
    navigator.clipboard.writeText(text).catch(() => {});
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

interface EditorProps {
  message: Message;
  save: (text: string) => void;
  cancel: () => void;
}

function Editor({ message, save, cancel }: EditorProps) {
  const [text, set_text] = useState(message.content);
  const input = useRef<HTMLTextAreaElement>(null);
  const is_user = message.role === "user";
  useLayoutEffect(() => {
    input.current!.focus();
    input.current!.setSelectionRange(text.length, text.length);
  }, []);
  const on_key = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.preventDefault();
      cancel();
    } else if (event.key === "Enter" && (is_user ? !event.shiftKey : event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      save(text);
    }
  };
  return (
    <form class={`message editor ${message.role}`} onSubmit={(event) => (event.preventDefault(), save(text))}>
      <div class="grow" data-text={text + "\n"}>
        <textarea ref={input} rows={1} aria-label="Edit the message" value={text} onKeyDown={on_key}
          onInput={(event) => set_text(event.currentTarget.value)} />
      </div>
      <div class="buttons">
        <button type="button" class="plain" onClick={cancel}>Cancel</button>
        <button type="submit" class="plain main-button" disabled={!text.trim()}>{is_user ? "Send" : "Save"}</button>
      </div>
    </form>
  );
}
