import { render } from "preact";
import { MonitorApp } from "./app";
import { History } from "./history";

const root = document.createElement("div");
root.id = "app";
document.body.append(root);
const history = new History();
const draw = () => render(<MonitorApp history={history} />, root);
history.listen(draw);
draw();
history.start();
