import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { PencilIcon, PlusIcon, TrashIcon } from "../common/icons";
import type { State } from "./state";
import type { Conversation } from "./store";

const kNarrow = "(max-width: 760px)";

/// The conversations; on a narrow screen a drawer over the page.
export function Sidebar({ state, is_open, close }: { state: State; is_open: boolean; close: () => void }) {
  const panel = useRef<HTMLElement>(null);
  const [is_narrow, set_narrow] = useState(matchMedia(kNarrow).matches);
  useEffect(() => {
    const query = matchMedia(kNarrow);
    const on_change = () => set_narrow(query.matches);
    query.addEventListener("change", on_change);
    return () => query.removeEventListener("change", on_change);
  }, []);
  useLayoutEffect(() => {
    if (is_open && is_narrow) panel.current?.querySelector<HTMLElement>("button")?.focus();
  }, [is_open]);
  const is_hidden = is_narrow && !is_open;

  return (
    <>
      {is_narrow && is_open && <div class="shade" onClick={close} />}
      <aside class={`side${is_open ? " open" : ""}`} ref={panel} aria-label="Conversations" inert={is_hidden}>
        <div class="side-head">
          <span class="name">Sluice</span>
        </div>
        <button type="button" class="new" onClick={() => (state.start_new(), close())}><PlusIcon /> New conversation</button>
        <ul>
          {state.conversations.map((conversation) => (
            <Entry key={conversation.id} state={state} conversation={conversation} title={conversation.title || "Untitled"}
              is_current={conversation === state.current} is_running={conversation === state.running_in} close={close} />
          ))}
        </ul>
      </aside>
    </>
  );
}

interface EntryProps {
  state: State;
  conversation: Conversation;
  title: string;
  is_current: boolean;
  is_running: boolean;
  close: () => void;
}

function Entry({ state, conversation, title, is_current, is_running, close }: EntryProps) {
  const [is_renamed, set_renamed] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const is_done = useRef(false);
  useLayoutEffect(() => {
    if (is_renamed) {
      input.current!.focus();
      input.current!.select();
    } else if (is_done.current) {
      opener.current!.focus();
    }
    is_done.current = false;
  }, [is_renamed]);

  // Called once: taking the field away also takes its focus.
  const finish = (keeps: boolean) => {
    if (!input.current || is_done.current) return;
    is_done.current = true;
    if (keeps) state.rename(conversation, input.current.value);
    set_renamed(false);
  };
  const on_key = (event: KeyboardEvent) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    finish(event.key === "Enter");
  };

  const remove = () => {
    opener.current!.closest("aside")!.querySelector<HTMLElement>(".new")!.focus();  // the focus would go with the entry
    state.remove(conversation);
  };

  if (is_renamed) {
    return (
      <li class="entry">
        <input ref={input} aria-label="Title" defaultValue={title} maxLength={120} onKeyDown={on_key} onBlur={() => finish(true)} />
      </li>
    );
  }
  return (
    <li class={`entry${is_current ? " current" : ""}`}>
      <button type="button" class="open" ref={opener} aria-current={is_current ? "page" : undefined} title={title}
        onClick={() => (state.open(conversation), close())}>{title}</button>
      {is_running && <span class="busy" aria-label="Writing" />}
      <button type="button" class="icon" aria-label={`Rename ${title}`} title="Rename" onClick={() => set_renamed(true)}>
        <PencilIcon />
      </button>
      <button type="button" class="icon" aria-label={`Delete ${title}`} title="Delete" onClick={remove}>
        <TrashIcon />
      </button>
    </li>
  );
}
