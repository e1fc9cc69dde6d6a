import { useState } from "preact/hooks";
import { DarkThemeIcon, LightThemeIcon, SystemThemeIcon } from "./icons";
import { choose_theme, chosen_theme, type Theme } from "./theme";

const kNext: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const kIcon = { system: SystemThemeIcon, light: LightThemeIcon, dark: DarkThemeIcon };

/// Goes through system, light, dark.
export function ThemeButton() {
  const [theme, set_theme] = useState(chosen_theme());
  const Icon = kIcon[theme];
  const change = () => {
    choose_theme(kNext[theme]);
    set_theme(kNext[theme]);
  };
  return (
    <button type="button" class="icon" onClick={change} aria-label={`Colours: ${theme}`} title={`Colours: ${theme}`}>
      <Icon />
    </button>
  );
}
