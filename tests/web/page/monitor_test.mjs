// The monitor at /monitor.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { close_browser, mock_only, open_browser, open_page, real_url, shot } from "./browser.mjs";

before(open_browser);
after(close_browser);

/// Six texts after the other at a time, until `t` ends: something to draw.
function keep_busy(t) {
  const end = new AbortController();
  const body = JSON.stringify({ prompt: "It was", max_tokens: 400 });
  const write = async () => {
    while (!end.signal.aborted) await (await fetch(`${real_url}/v1/completions`, { method: "POST", body, signal: end.signal })).text();
  };
  const writing = [...Array(6)].map(() => write().catch((error) => assert.equal(error.name, "AbortError")));
  t.after(() => (end.abort(), Promise.all(writing)));
}

/// The number of running texts in each answer of /metrics that the page gets from now on.
function numbers_running(page) {
  const numbers = [];
  page.on("response", async (response) => {
    if (!response.url().endsWith("/metrics")) return;
    const line = (await response.text()).match(/^sluice_num_requests_running(?:{.*})? (\d+)/m);
    numbers.push(Number(line[1]));
  });
  return numbers;
}

test("draws what /metrics says, live", async (t) => {
  const { page, mock, complaints } = await open_page(t, { path: "monitor" });
  const running = numbers_running(page);
  if (!mock) keep_busy(t);
  await page.getByText("live").waitFor();
  const path_of = (title) => page.locator("figure", { hasText: title }).locator(".curve").first().getAttribute("d");
  const early = await path_of("Requests");
  await page.waitForTimeout(3500);
  assert.ok((await path_of("Requests")).length > early.length, "the curve grows");
  const tile = (name) => page.locator(".tiles > div", { hasText: name }).locator("b").innerText();
  assert.match(await tile("Running"), /^\d+$/);
  assert.match(await tile("KV cache"), /%$/);
  if (mock) {
    const rate = Number((await tile("Generation")).replace(",", ""));
    assert.ok(rate > 150 && rate < 450, `tokens/s: ${rate}`);
    assert.match(await tile("First token"), /^1[0-9]{2} ms$/);
    assert.match(await page.locator("figure", { hasText: "Work saved" }).innerText(), /prefix cache hits\s*68%.*drafts accepted\s*71%/s);
  }
  if (!mock) {
    await page.getByText(/busiest expert/).waitFor();
    const shown = Number(await tile("Running"));
    assert.ok(running.slice(-2).includes(shown), `Running: ${shown}, /metrics: ${running}`);
    assert.ok(Math.max(...running) > 1, `several texts run at a time: ${running}`);
    assert.ok(Number((await tile("Generation")).replace(",", "")) > 0);
  }
  await page.locator("figure", { hasText: "Requests" }).locator("svg").hover();
  await page.getByText(/\d s ago/).waitFor();
  await shot(page, "monitor");
  assert.deepEqual(complaints, []);
});

test("the heat map has a row for each layer and a column for each expert", mock_only, async (t) => {
  const { page } = await open_page(t, { path: "monitor" });
  await page.getByText(/busiest expert/).waitFor();
  const canvas = page.locator("canvas");
  assert.deepEqual(await canvas.evaluate((c) => [c.width, c.height]), [64, 12]);
  const [hot, fair] = await canvas.evaluate((c) => {
    const at = (x, y) => [...c.getContext("2d").getImageData(x, y, 1, 1).data];
    return [at(17, 4), at(0, 0)];  // expert 17 of layer 7 has four times its share
  });
  assert.ok(hot[0] > hot[2] + 100, `hot: ${hot}`);
  assert.ok(Math.abs(fair[0] - fair[2]) < 100, `fair: ${fair}`);
  const box = await canvas.boundingBox();
  await canvas.hover({ position: { x: (17.5 / 64) * box.width, y: (4.5 / 12) * box.height } });
  await page.getByText(/layer 7, expert 17: .* of its fair share/).waitFor();
});

test("tells when the server is gone, and goes on when it is back", mock_only, async (t) => {
  const { page, url } = await open_page(t, { path: "monitor" });
  await page.getByText("live").waitFor();
  await page.route(url + "metrics", (route) => route.abort());
  await page.getByText("The server cannot be reached.").waitFor();
  await page.unroute(url + "metrics");
  await page.getByText("live").waitFor();
});

test("fits a phone, in the dark", async (t) => {
  const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2, colorScheme: "dark" };
  const { page } = await open_page(t, { path: "monitor", context: phone });
  await page.getByText("live").waitFor();
  await page.waitForTimeout(real_url ? 0 : 2500);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  await shot(page, "monitor_phone");
});
