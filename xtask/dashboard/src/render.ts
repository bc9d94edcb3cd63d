// Command: node render.js SETTINGS DASHBOARD CHROMIUM PICTURE
//
// Serves the page on loopback, draws a dashboard in Chromium and writes a PNG. Prints each panel that cannot be drawn,
// and ends with status 1 then.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join, normalize } from 'node:path';

import puppeteer from 'puppeteer-core';
import sharp from 'sharp';

import type { Settings } from './model';

const HERE = import.meta.dirname;
const ICONS = join(HERE, 'node_modules/@grafana/ui/dist/public/img/icons');
const FONTS = join(HERE, 'node_modules/@fontsource/inter/files');
// Grafana's server has its fonts under these paths.
const FONT_FILES: Record<string, string> = {
  '/public/fonts/inter/Inter-Regular.woff2': 'inter-latin-400-normal.woff2',
  '/public/fonts/inter/Inter-Medium.woff2': 'inter-latin-500-normal.woff2',
};
const TYPES: Record<string, string> = { html: 'text/html', js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' };
const PATIENCE_MS = 120_000;

const [settingsFile, dashboardFile, chromium, picture] = process.argv.slice(2);
if (!settingsFile || !dashboardFile || !chromium || !picture) {
  throw new Error('usage: render.js SETTINGS DASHBOARD CHROMIUM PICTURE');
}

// Returns the file of a path of the page.
function file(path: string): string {
  switch (path) {
    case '/':
      return join(HERE, 'page.html');
    case '/settings.json':
      return settingsFile!;
    case '/dashboard.json':
      return dashboardFile!;
    default: {
      const font = FONT_FILES[path];
      if (font) {
        return join(FONTS, font);
      }
      const icon = path.split('/img/icons/')[1];
      return icon ? join(ICONS, normalize(`/${icon}`)) : join(HERE, normalize(path));
    }
  }
}

const server = createServer(async ({ url }, response) => {
  const { pathname } = new URL(url ?? '/', 'http://page');
  try {
    const path = file(pathname);
    const body = await readFile(path);
    response.writeHead(200, { 'Content-Type': TYPES[path.split('.').pop() ?? ''] ?? 'application/octet-stream' });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
const { port } = server.address() as AddressInfo;

const { width }: Settings = JSON.parse(await readFile(settingsFile, 'utf8'));
// Root cannot use Chromium's sandbox; the namespace of the lab has no way out, and the page is our own.
const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--font-render-hinting=none', '--lang=en-US'],
});
let failures: string[] = [];
try {
  const page = await browser.newPage();
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warn') {
      console.error(`page: ${message.text()} ${message.location().url ?? ''}`);
    }
  });
  await page.setViewport({ width, height: 1000 });
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.waitForFunction('window.mailflowReport', { timeout: PATIENCE_MS });
  const report = await page.evaluate(() => window.mailflowReport!);
  failures = report.failures.map(({ panel, reason }) => `${panel}: ${reason}`);
  // The browser draws some parts only once they are in view.
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.setViewport({ width, height });
  await new Promise((done) => setTimeout(done, 1000));
  const empty = await page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>('[data-panel]')]
      .filter((panel) => !panel.querySelector('canvas, [role=gridcell]'))
      .filter(({ innerText, dataset }) => ['', 'No data'].includes(innerText.replace(dataset.panel!, '').trim()))
      .map(({ dataset }) => `${dataset.panel}: nothing is drawn`)
  );
  failures.push(...empty);
  const screenshot = await page.screenshot({ fullPage: true });
  // A palette takes a third of the bytes.
  await sharp(screenshot).png({ palette: true, colours: 128, effort: 10, dither: 0 }).toFile(picture);
  console.log(`${report.panels} panels drawn`);
} finally {
  await browser.close();
  server.close();
}
for (const failure of failures) {
  console.error(`not drawn: ${failure}`);
}
process.exitCode = failures.length === 0 ? 0 : 1;
