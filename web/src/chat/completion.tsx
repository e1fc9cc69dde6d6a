import { useLayoutEffect, useRef } from "preact/hooks";
import { AgainIcon } from "../common/icons";
import { focus_input } from "./focus";
import { Ending, Figures } from "./message";
import type { State } from "./state";

/// A text that the model continues: what a base model can do.
export function CompletionView({ state }: { state: State }) {
  const scroller = useRef<HTMLDivElement>(null);
  const { text, written, written_from } = state.current;
  const is_running = state.running !== null && state.running === written;

  useLayoutEffect(focus_input, []);
  useLayoutEffect(() => {
    if (is_running) scroller.current!.scrollTop = scroller.current!.scrollHeight;
  });
  const on_key = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    state.complete();
  };
  const again = () => {
    state.undo_completion();
    state.complete();
  };

  return (
    <>
      <div class="scroll" ref={scroller}>
        <div class="column completion">
          {state.model && !state.model.is_chat && (
            <p class="base-note">{state.model.id} is a base model: it continues texts and has not been tuned to answer. Begin a
              text, and it writes on.</p>
          )}
          <div class="paper">
            <div class="mirror" aria-hidden="true">
              {written ? <>{text.slice(0, written_from)}<mark>{text.slice(written_from)}</mark></> : text}{"\n"}
            </div>
            <textarea id="input" aria-label="Text to continue" placeholder="Once upon a time" value={text}
              readOnly={is_running} onInput={(event) => state.set_text(event.currentTarget.value)} onKeyDown={on_key} />
          </div>
          {written && <Ending message={written} />}
        </div>
      </div>
      <div class="foot">
        <div class="column run">
          <span class="run-figures">{written?.stats && written.stats.tokens > 0 && <Figures message={written} />}</span>
          {written && !is_running && (
            <>
              <button type="button" class="plain" onClick={() => state.undo_completion()}>Take back</button>
              <button type="button" class="plain" onClick={again}><AgainIcon /> Again</button>
            </>
          )}
          {is_running
            ? <button type="button" class="plain main-button" title="Stop (Esc)" onClick={() => state.stop()}>Stop</button>
            : <button type="button" class="plain main-button" title="Continue (Ctrl Enter)" disabled={!text || !state.model}
                onClick={() => state.complete()}>Continue</button>}
        </div>
      </div>
    </>
  );
}
