import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { SendIcon, StopIcon } from "../common/icons";
import { focus_input } from "./focus";
import type { State } from "./state";

/// Drafts of messages by conversation: switching between conversations loses none.
const drafts = new Map<string, string>();

export function Composer({ state, on_send }: { state: State; on_send: () => void }) {
  const id = state.current.id;
  const input = useRef<HTMLTextAreaElement>(null);
  const [text, set_text] = useState(drafts.get(id) ?? "");
  const is_running = state.running !== null;

  useLayoutEffect(focus_input, [id]);

  const write = (value: string) => {
    set_text(value);
    drafts.set(id, value);
  };
  const send = () => {
    if (is_running || !text.trim() || !state.model) return;
    state.send(text);
    write("");
    on_send();
    input.current?.focus();
  };
  const on_key = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };

  return (
    <form class="composer column" onSubmit={(event) => (event.preventDefault(), send())}>
      <div class="grow" data-text={text + "\n"}>
        <textarea id="input" ref={input} rows={1} placeholder="Write a message" aria-label="Message"
          aria-describedby="input-help" value={text} onInput={(event) => write(event.currentTarget.value)} onKeyDown={on_key} />
      </div>
      {is_running
        ? <button type="button" class="send" aria-label="Stop" title="Stop (Esc)" onClick={() => state.stop()}><StopIcon /></button>
        : <button type="submit" class="send" aria-label="Send" title="Send (Enter)" disabled={!text.trim() || !state.model}>
            <SendIcon />
          </button>}
      <p id="input-help" class="help"><kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line, <kbd>Esc</kbd> stops</p>
    </form>
  );
}
