/**
 * Draws the five dashboards as they look in the night of an incident: the built JSON, its queries answered by a real
 * Prometheus, panels of @grafana/ui, a headless Chromium. Writes docs/pictures/*.png.
 */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { names } from '../../dashboards/frame.ts';
import { type BuiltDashboard, filledIn, shownSeconds } from '../../test/dashboards/ask.ts';
import { INCIDENT, incident, openMetrics } from '../../test/dashboards/days.ts';
import { type RunningPrometheus, type Sample, startPrometheus } from '../../test/dashboards/prometheus.ts';
import { findTool } from '../../test/tools/find-tool.ts';
import type { Answers } from './answers.ts';

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const POINTS = 360;
const VIEW = { width: 1_632, height: 900 };

/** Fails with one line that says what is missing and how to get it. */
function chromium(): string {
  if (!existsSync(here('node_modules'))) throw new Error('missing: npm ci --prefix tools/dashboard-pictures');
  for (const name of ['chromium', 'google-chrome'])
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {}
    }
  throw new Error('missing: a Chromium, such as apt-get install chromium');
}

async function answer(prometheus: RunningPrometheus, dashboard: BuiltDashboard): Promise<Answers> {
  const to = Date.parse(INCIDENT) / 1_000;
  const from = to - shownSeconds(dashboard);
  const step = Math.ceil((to - from) / POINTS);
  const series: Record<number, Record<string, Sample[]>> = {};
  for (const panel of dashboard.panels) {
    const ofPanel: Record<string, Sample[]> = {};
    for (const { refId, expr, range } of panel.targets)
      ofPanel[refId] = range
        ? await prometheus.range(filledIn(expr), from, to, step)
        : await prometheus.instant(filledIn(expr), to);
    series[panel.id] = ofPanel;
  }
  return { dashboard, from, to, step, series };
}

async function main(): Promise<void> {
  const executablePath = chromium();
  const tools = { prometheus: await findTool('prometheus'), promtool: await findTool('promtool') };
  const { build, preview } = await import('vite');
  const { chromium: browserType } = await import('playwright-core');
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-pictures-'));
  const prometheus = await startPrometheus(tools, [openMetrics([incident()])]);
  try {
    const outDir = join(folder, 'page');
    await build({
      root: here('.'),
      configFile: false,
      logLevel: 'error',
      build: { outDir, emptyOutDir: true, target: 'esnext', chunkSizeWarningLimit: 20_000 },
    });
    await mkdir(join(outDir, 'answers'), { recursive: true });
    for (const name of Object.keys(names)) {
      const dashboard = JSON.parse(
        readFileSync(here(`../../dashboards/built/${name}.json`), 'utf8'),
      ) as BuiltDashboard;
      await writeFile(
        join(outDir, `answers/${name}.json`),
        JSON.stringify(await answer(prometheus, dashboard)),
      );
    }
    const server = await preview({
      root: here('.'),
      configFile: false,
      logLevel: 'error',
      build: { outDir },
      preview: { host: '127.0.0.1', port: 0, strictPort: false },
    });
    const address = server.httpServer.address();
    if (address === null || typeof address === 'string') throw new Error('the page is not served');
    const browser = await browserType.launch({
      executablePath,
      args: [
        ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'],
        ...['--disable-background-networking', '--disable-component-update'],
      ],
    });
    try {
      for (const name of Object.keys(names)) {
        const page = await browser.newPage({ viewport: VIEW, timezoneId: 'UTC', locale: 'en-US' });
        page.on('pageerror', (error) => process.stderr.write(`${name}: ${error.message}\n`));
        await page.goto(`http://127.0.0.1:${address.port}/?name=${name}`);
        await page.waitForSelector('footer');
        await page.evaluate('document.fonts.ready');
        // Charts are drawn in the frame after the one in which their size is known.
        await page.waitForTimeout(1_500);
        const file = here(`../../docs/pictures/${name}.png`);
        await mkdir(here('../../docs/pictures'), { recursive: true });
        await page.locator('main').screenshot({ path: file, animations: 'disabled' });
        await page.close();
        process.stdout.write(`docs/pictures/${name}.png\n`);
      }
    } finally {
      await browser.close();
      await server.close();
    }
  } finally {
    await prometheus.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
