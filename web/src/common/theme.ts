// Light or dark: as the system has it, unless chosen here.
export type Theme = "system" | "light" | "dark";

const kKey = "sluice.theme";

export function chosen_theme(): Theme {
  try {
    const value = localStorage.getItem(kKey);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system";  // the browser keeps nothing for this page
  }
}

export function apply_theme(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function choose_theme(theme: Theme): void {
  apply_theme(theme);
  try {
    localStorage.setItem(kKey, theme);
  } catch {
    // lasts until the page is left
  }
}
