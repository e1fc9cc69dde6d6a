/// Where one goes on after most actions. Not on a touch screen, whose keyboard would come up.
export function focus_input(): void {
  if (matchMedia("(hover: hover)").matches) document.getElementById("input")?.focus();
}
