// A browser and a server for the tests of the page: the mock, or the server at PAGE_URL (with its key in PAGE_KEY) and
// that of a base model at PAGE_BASE_URL.
import { createRequire } from "node:module";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { start_mock } from "./mock_server.mjs";

const { chromium } = createRequire(new URL("../../../web/package.json", import.meta.url))("playwright-core");

export const real_url = process.env.PAGE_URL ?? "";
const real_base_url = process.env.PAGE_BASE_URL ?? "";
/// For tests of what only the mock does.
export const mock_only = real_url ? { skip: "only against the mock" } : {};
/// For tests that want a base model.
export const with_base = real_url && !real_base_url ? { skip: "only with a base model" } : {};

let browser;
export async function open_browser() {
  const args = process.getuid() === 0 ? ["--no-sandbox"] : [];
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
}
export const close_browser = () => browser.close();

/// A page in a fresh browser profile, closed when the test `t` ends. `mock`: options of start_mock; `base`: of a base model;
/// `context`: of the profile. Anything the browser complains of, and any request to elsewhere, is in `complaints`.
export async function open_page(t, { mock: mock_options = {}, base = false, context: options = {}, path = "" } = {}) {
  const models = base ? { models: [{ id: "base", chat: false }] } : {};
  const mock = real_url ? null : await start_mock({ dist: process.env.PAGE_DIST, ...models, ...mock_options });
  const url = real_url ? (base ? real_base_url : real_url).replace(/\/*$/, "/") : mock.url;
  const context = await browser.newContext({ viewport: { width: 1180, height: 860 }, reducedMotion: "reduce", ...options });
  t.after(async () => {
    await context.close();
    mock?.close();
  });
  if (process.env.PAGE_KEY) await context.addInitScript((key) => localStorage.setItem("sluice.api_key", key), process.env.PAGE_KEY);
  const page = await context.newPage();
  page.setDefaultTimeout(real_url ? 120_000 : 10_000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    // A refused request is in the console whatever the page does about it.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) complaints.push(`request to ${request.url()}`);
  });
  await page.goto(url + path);
  return { page, mock, url, complaints, context };
}

/// Sends a message and waits for the end of its answer.
export async function ask(page, text) {
  await start_asking(page, text);
  await answered(page);
}

/// Waits until the page shows what was just done, and no answer is being written.
export async function answered(page) {
  await drawn(page);
  await page.getByRole("button", { name: "Send" }).waitFor();
}

/// The page draws once a frame.
export function drawn(page) {
  return page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

export async function until(condition) {
  for (let i = 0; i < 100 && !condition(); ++i) await new Promise((done) => setTimeout(done, 50));
}

export async function start_asking(page, text) {
  await page.locator(".model:not(:empty)").waitFor();
  await page.locator("#input").fill(text);
  await page.keyboard.press("Enter");
  await drawn(page);
}

export const answers = (page) => page.locator("article.assistant .markdown").allInnerTexts();
export const questions = (page) => page.locator("article.user .said").allInnerTexts();

/// Into the folder SHOTS, for people to look at; nowhere without it.
export async function shot(page, name) {
  if (!process.env.SHOTS) return;
  await mkdir(process.env.SHOTS, { recursive: true });
  await page.screenshot({ path: join(process.env.SHOTS, `${name}${real_url ? "_real" : ""}.png`) });
}
