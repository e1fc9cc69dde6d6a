import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ChartIcon, DownIcon, MenuIcon, PlusIcon, SlidersIcon } from "../common/icons";
import { KeyField } from "../common/key_field";
import { ThemeButton } from "../common/theme_button";
import { CompletionView } from "./completion";
import { Composer } from "./composer";
import { MessageView } from "./message";
import { SettingsDialog } from "./settings";
import { Sidebar } from "./sidebar";
import type { State } from "./state";

export function App({ state }: { state: State }) {
  const [has_menu, set_menu] = useState(false);
  const [has_settings, set_settings] = useState(false);
  const menu_button = useRef<HTMLButtonElement>(null);
  const conversation = state.current;

  useEffect(() => {
    const on_key = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || has_settings) return;
      if (!has_menu) return state.stop();
      set_menu(false);
      menu_button.current!.focus();
    };
    document.addEventListener("keydown", on_key);
    return () => document.removeEventListener("keydown", on_key);
  }, [has_menu, has_settings]);
  useEffect(() => {
    document.title = conversation.title ? `${conversation.title} – Sluice` : "Sluice";
  }, [conversation.title]);

  return (
    <>
      <a class="skip" href="#input">Skip to the input</a>
      <Sidebar state={state} is_open={has_menu} close={() => set_menu(false)} />
      <div class="main">
        <header class="bar">
          <button type="button" class="icon menu-button" ref={menu_button} aria-label="Conversations" aria-expanded={has_menu} title="Conversations"
            onClick={() => set_menu(!has_menu)}><MenuIcon /></button>
          <ModelName state={state} />
          <nav class="tools" aria-label="Tools">
            <button type="button" class="icon new-button" aria-label="New conversation" title="New conversation"
              onClick={() => state.start_new()}><PlusIcon /></button>
            <a class="icon" href="monitor" aria-label="Monitor" title="Monitor"><ChartIcon /></a>
            <ThemeButton />
            <button type="button" class="icon" aria-label="Settings" title="Settings" onClick={() => set_settings(true)}>
              <SlidersIcon />
            </button>
          </nav>
        </header>
        <Notices state={state} />
        {conversation.kind === "chat"
          ? <ChatView key={conversation.id} state={state} />
          : <CompletionView key={conversation.id} state={state} />}
      </div>
      {has_settings && <SettingsDialog key={conversation.id} state={state} close={() => set_settings(false)} />}
      <Undo state={state} />
      <div class="hidden" role="status">{state.announcement}</div>
    </>
  );
}

function ModelName({ state }: { state: State }) {
  if (state.models.length > 1) {
    return (
      <select class="model" aria-label="Model" value={state.model?.id} onChange={(e) => state.choose_model(e.currentTarget.value)}>
        {state.models.map((model) => <option key={model.id} value={model.id}>{model.id}</option>)}
      </select>
    );
  }
  return <span class="model" title={state.model?.id}>{state.model?.id ?? ""}</span>;
}

function Notices({ state }: { state: State }) {
  return (
    <>
      {state.needs_key && (
        <div class="notice" role="alert">
          <p>{state.server_note || "The server wants an API key."}</p>
          <KeyField on_use={() => state.find_models()} />
        </div>
      )}
      {!state.needs_key && state.server_note && <div class="notice" role="alert"><p>{state.server_note}</p></div>}
      {!state.store.is_kept && (
        <div class="notice"><p>This browser window keeps nothing: conversations are gone when it is closed.</p></div>
      )}
    </>
  );
}

function ChatView({ state }: { state: State }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [follows, set_follows] = useState(true);
  const is_following = useRef(true);
  is_following.current = follows;
  const conversation = state.current;
  const messages = conversation.messages;
  const is_base = state.model !== null && !state.model.is_chat;

  useLayoutEffect(() => {
    if (follows && scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  });
  // The input grows, a phone's keyboard comes: the end stays in sight.
  useEffect(() => {
    const place = scroller.current!;
    const observer = new ResizeObserver(() => {
      if (is_following.current) place.scrollTop = place.scrollHeight;
      else set_follows(is_at_end(place));
    });
    observer.observe(place);
    return () => observer.disconnect();
  }, []);

  return (
    <>
      <div class="scroll" ref={scroller} onScroll={() => set_follows(is_at_end(scroller.current!))} role="region" aria-label="Messages" tabIndex={0}>
        <div class="column">
          {conversation.settings.system.trim() && (
            <details class="system"><summary>System prompt</summary><p>{conversation.settings.system}</p></details>
          )}
          {messages.length === 0 && <Welcome />}
          {messages.map((message, i) => (
            <MessageView key={message.id} state={state} message={message} is_last={i === messages.length - 1}
              is_running={state.running === message} can_act={state.running === null} text={message.content} />
          ))}
        </div>
      </div>
      <div class="foot">
        {!follows && (
          <button type="button" class="icon to-end" aria-label="To the end" title="To the end" onClick={() => set_follows(true)}>
            <DownIcon />
          </button>
        )}
        {is_base
          ? <div class="column"><p class="base-note">
              {state.model!.id} is a base model: it continues texts and has not been tuned to answer.{" "}
              <button type="button" class="link" onClick={() => state.start_new()}>Start a text</button>
            </p></div>
          : <Composer state={state} on_send={() => set_follows(true)} />}
      </div>
    </>
  );
}

function is_at_end({ scrollTop, scrollHeight, clientHeight }: HTMLElement): boolean {
  return scrollHeight - scrollTop - clientHeight < 48;
}

function Welcome() {
  return <p class="welcome">What is on your mind?</p>;
}

/// A removed conversation can be brought back for a while.
function Undo({ state }: { state: State }) {
  const removed = state.removed;
  useEffect(() => {
    if (!removed) return;
    const timer = setTimeout(() => state.forget_removed(), 8000);
    return () => clearTimeout(timer);
  }, [removed]);
  if (!removed) return null;
  return (
    <div class="toast" role="status">
      <span>Deleted “{removed.title}”</span>
      <button type="button" class="link" onClick={() => state.bring_back()}>Undo</button>
    </div>
  );
}
