// A client that costs little beside the server: HTTP/1.1 over plain sockets that all read into the same buffer, and
// responses that are kept as they come and parsed when they are over.
import net from "node:net";
import { performance } from "node:perf_hooks";

const kTimeout = 300_000;
const kEnd = "0\r\n\r\n", kDone = "data: [DONE]\n\n";
const reading = Buffer.alloc(1 << 16);

/// The body of a response in chunks.
function joined_chunks(bytes, at) {
  const parts = [];
  for (;;) {
    const line = bytes.indexOf("\r\n", at);
    const size = parseInt(bytes.toString("latin1", at, line), 16);
    if (line < 0 || !(size >= 0)) throw new Error("malformed chunk");
    if (size === 0) return Buffer.concat(parts).toString();
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}

/// Text and usage of a streamed completion that is over. The text is read as it stands between the names of an event's
/// fields, which costs less than reading the events, and holds for events of one token or many.
function parse(bytes) {
  const head = bytes.indexOf("\r\n\r\n");
  const status = Number(bytes.toString("latin1", 9, 12));
  if (status !== 200) throw new Error(`status ${status}: ${bytes.toString("utf8", head + 4, head + 300)}`);
  const body = joined_chunks(bytes, head + 4);
  if (!body.endsWith(kDone)) throw new Error(`expected ${kDone.trim()} at the end, found ${body.slice(-300)}`);
  const kName = '"text":', kNext = ',"logprobs":';
  let text = "", at = 0;
  while ((at = body.indexOf(kName, at)) >= 0) {
    const end = body.indexOf(kNext, at);
    text += JSON.parse(body.slice(at + kName.length, end));
    at = end;
  }
  const last = JSON.parse(body.slice(body.lastIndexOf("data: {") + 6, -kDone.length));
  if (!last.usage) throw new Error(`expected usage in the last event, found ${JSON.stringify(last)}`);
  return { text, usage: last.usage };
}

/// One connection, for one request at a time.
export class Client {
  constructor(url) {
    this.url = new URL(url);
    this.waiting = null;
  }

  async connect() {
    if (this.is_open()) return;
    const onread = { buffer: reading, callback: (size) => this.waiting?.take(Buffer.from(reading.subarray(0, size))) ?? true };
    const socket = net.connect({ host: this.url.hostname, port: Number(this.url.port), noDelay: true, onread });
    this.socket = socket;
    socket.setTimeout(kTimeout, () => socket.destroy(new Error("no byte for too long")));
    const lost = (error) => this.waiting?.lost(error ?? new Error("the server closed the connection"));
    await new Promise((resolve, reject) => {
      socket.on("error", (error) => (reject(error), lost(error))).on("close", () => lost());
      socket.once("connect", resolve);
    });
  }

  send(method, path, body = "") {
    const length = Buffer.byteLength(body);
    this.socket.write(`${method} ${path} HTTP/1.1\r\nHost: ${this.url.host}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${length}\r\n\r\n${body}`);
  }

  /// The bytes of a response that is over when `over(piece, pieces)` says so; null when that says null.
  receive(over) {
    const pieces = [];
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        this.waiting = null;
        settle(value);
      };
      const take = (piece) => {
        pieces.push(piece);
        const is_over = over(piece, pieces);
        if (is_over !== false) done(resolve, is_over && Buffer.concat(pieces));
        return true;
      };
      this.waiting = { take, lost: (error) => done(reject, error) };
      if (!this.is_open()) this.waiting.lost(new Error("the server closed the connection"));
    });
  }

  /// A streamed completion: its text and usage. `first(milliseconds)` is called at the first event. The client vanishes
  /// when it has read `pieces` pieces of the response; null then.
  async stream(body, { first = () => {}, pieces = Infinity } = {}) {
    await this.connect();
    const start = performance.now();
    let begun = false;
    this.send("POST", "/v1/completions", JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }));
    const bytes = await this.receive((piece, all) => {
      if (!begun && piece.includes("data: ")) {
        begun = true;
        first(performance.now() - start);
      }
      if (all.length >= pieces) return null;
      if (!begun) return !all[0].toString("latin1", 9, 12).startsWith("200");
      const end = piece.length >= kEnd.length ? piece : Buffer.concat(all.slice(-kEnd.length));
      return end.toString("latin1", end.length - kEnd.length) === kEnd;
    });
    if (!bytes) this.close();
    return bytes && parse(bytes);
  }

  /// A small GET: its body.
  async get(path) {
    await this.connect();
    this.send("GET", path);
    const bytes = await this.receive((piece, all) => {
      const text = Buffer.concat(all).toString("latin1"), head = text.indexOf("\r\n\r\n");
      return head >= 0 && text.length >= head + 4 + Number(/content-length: (\d+)/i.exec(text)[1]);
    });
    return bytes.toString().split("\r\n\r\n")[1];
  }

  is_open() {
    return this.socket?.readyState === "open";
  }

  close() {
    this.socket?.destroy();
  }
}

/// `count` connections that have had one answer and stay open.
export async function idle_clients(url, count) {
  const clients = [...Array(count)].map(() => new Client(url));
  for (let i = 0; i < count; i += 100) await Promise.all(clients.slice(i, i + 100).map((c) => c.get("/health")));
  return clients;
}
