import { useState } from "preact/hooks";
import { api_key, set_api_key } from "./api";

/// The API key, kept in this browser; `on_use` after it was entered.
export function KeyField({ on_use }: { on_use: () => void }) {
  const [key, set_key] = useState(api_key());
  const use = (event: Event) => {
    event.preventDefault();
    set_api_key(key.trim());
    on_use();
  };
  return (
    <form class="key" onSubmit={use}>
      <label>
        API key
        <input type="password" autocomplete="off" spellcheck={false} value={key}
          onInput={(event) => set_key(event.currentTarget.value)} />
      </label>
      <button type="submit" class="plain">Use</button>
    </form>
  );
}
