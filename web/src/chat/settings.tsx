import { useEffect, useRef, useState } from "preact/hooks";
import { kCompletionTokens, type Sampling } from "../common/api";
import { KeyField } from "../common/key_field";
import type { State } from "./state";

interface Field {
  name: keyof Sampling;
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
}

const kFields: Field[] = [
  { name: "temperature", label: "Temperature", hint: "0 always takes the likeliest token", min: 0, max: 2, step: 0.1 },
  { name: "top_p", label: "Top p", hint: "share of probability to choose from", min: 0, max: 1, step: 0.05 },
  { name: "top_k", label: "Top k", hint: "how many tokens to choose from", min: 0, max: 1000, step: 1 },
  { name: "min_p", label: "Min p", hint: "least probability relative to the likeliest", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", label: "Repetition penalty", hint: "1 is none", min: 0.1, max: 2, step: 0.05 },
  { name: "max_tokens", label: "Max tokens", hint: "of an answer, thinking included", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", label: "Seed", hint: "the same seed gives the same text", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];

/// Changes hold at once, for this conversation and those begun after it.
export function SettingsDialog({ state, close }: { state: State; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current!.showModal(), []);
  const { settings } = state.current;
  const [system, set_system] = useState(settings.system);
  const change_sampling = (name: keyof Sampling, value: number | null) =>
    state.change_settings({ ...state.current.settings, sampling: { ...state.current.settings.sampling, [name]: value } });

  return (
    <dialog class="settings" ref={dialog} aria-labelledby="settings-title" onClose={close}
      onClick={(event) => event.target === dialog.current && dialog.current!.close()}>
      <div class="sheet">
        <header>
          <h2 id="settings-title">Settings</h2>
          <button type="button" class="plain" onClick={() => dialog.current!.close()}>Done</button>
        </header>
        {state.current.kind === "chat" && (
          <label class="wide">
            System prompt
            <textarea rows={4} value={system} onInput={(event) => {
              set_system(event.currentTarget.value);
              state.change_settings({ ...state.current.settings, system: event.currentTarget.value });
            }} />
          </label>
        )}
        <p class="hint">What is left empty is up to the server. Settings belong to this conversation; new ones begin with them.</p>
        <div class="fields">
          {kFields.map((field) => (
            <NumberField key={field.name} field={field} value={settings.sampling[field.name]}
              placeholder={field.name === "max_tokens" && state.current.kind === "completion" ? `${kCompletionTokens}` : "default"}
              change={(value) => change_sampling(field.name, value)} />
          ))}
        </div>
        <KeyField on_use={() => state.find_models()} />
        <p class="hint">The key is kept in this browser and sent to this server only.
          {state.model?.max_len ? ` ${state.model.id} reads and writes up to ${state.model.max_len.toLocaleString("en")} tokens.` : ""}</p>
      </div>
    </dialog>
  );
}

interface NumberFieldProps {
  field: Field;
  value: number | null;
  placeholder: string;
  change: (value: number | null) => void;
}

function NumberField({ field, value, placeholder, change }: NumberFieldProps) {
  const [text, set_text] = useState(value === null ? "" : String(value));
  const [is_valid, set_valid] = useState(true);
  const on_input = (event: Event) => {
    const input = event.currentTarget as HTMLInputElement;
    const number = input.value === "" ? null : Number(input.value);
    const fits = !input.validity.badInput && (number === null || (number >= field.min && number <= field.max &&
      (field.step < 1 || Number.isInteger(number))));
    set_text(input.value);
    set_valid(fits);
    if (fits) change(number);
  };
  return (
    <label title={field.hint}>
      {field.label}
      <input type="number" inputMode="decimal" min={field.min} max={field.max} step={field.step} value={text}
        placeholder={placeholder} aria-invalid={!is_valid} onInput={on_input} />
    </label>
  );
}
