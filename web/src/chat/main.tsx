import { render } from "preact";
import { App } from "./app";
import { State } from "./state";
import { Store } from "./store";

async function main(): Promise<void> {
  const state = await State.load(await Store.open());
  const root = document.createElement("div");
  root.id = "app";
  document.body.append(root);
  let is_due = false;
  const draw = () => {
    is_due = false;
    render(<App state={state} />, root);
  };
  // However fast tokens come, there is one drawing a frame.
  state.listen(() => {
    if (is_due) return;
    is_due = true;
    requestAnimationFrame(draw);
  });
  addEventListener("pagehide", () => state.leave());
  draw();
  state.find_models();
}

main();
