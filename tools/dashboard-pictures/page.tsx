/** One dashboard, drawn as large as it is. Which one: `?name=`. */
import { createTheme, ThemeContext } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, PortalContainer } from '@grafana/ui';
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import { createRoot } from 'react-dom/client';
import type { Answers } from './answers.ts';
import { Panel } from './panels.tsx';

const WIDTH = 1_600;
const MARGIN = 16;
/** The grid of Grafana: 24 columns, rows of 30 pixels, 8 between them. */
const COLUMNS = 24;
const ROW = 30;
const GAP = 8;

const theme = createTheme({ colors: { mode: 'dark' } });

function Page({ answers }: { readonly answers: Answers }) {
  const { dashboard, from, to } = answers;
  const column = (WIDTH - 2 * MARGIN + GAP) / COLUMNS;
  const place = ({ x, y, w, h }: Answers['dashboard']['panels'][number]['gridPos']) => ({
    left: x * column,
    top: y * (ROW + GAP),
    width: w * column - GAP,
    height: h * (ROW + GAP) - GAP,
  });
  const height = Math.max(
    ...dashboard.panels.map(({ gridPos }) => place(gridPos).top + place(gridPos).height),
  );
  const utc = (seconds: number) => new Date(seconds * 1_000).toISOString().slice(0, 16).replace('T', ' ');
  return (
    <main style={{ width: WIDTH, padding: MARGIN, background: theme.colors.background?.canvas }}>
      <header style={{ display: 'flex', gap: 20, alignItems: 'baseline', paddingBottom: 12 }}>
        <strong style={{ fontSize: 20 }}>{dashboard.title}</strong>
        <span>namespace counterfoil, installation counterfoil</span>
        <span style={{ opacity: 0.7 }}>{dashboard.links.map(({ title }) => title).join(' · ')}</span>
        <span style={{ marginLeft: 'auto' }}>
          {utc(from)} to {utc(to)} UTC
        </span>
      </header>
      <div style={{ position: 'relative', height }}>
        {dashboard.panels.map((panel) => {
          const at = place(panel.gridPos);
          return (
            <div key={panel.id} style={{ position: 'absolute', ...at }}>
              <Panel panel={panel} answers={answers} width={at.width} height={at.height} />
            </div>
          );
        })}
      </div>
      <footer style={{ opacity: 0.6, paddingTop: 10, fontSize: 12 }}>
        An incident made up for the docs. The JSON and the answers of Prometheus are real; the page is drawn
        with @grafana/ui and is no screenshot of Grafana.
      </footer>
    </main>
  );
}

await initPluginTranslations('grafana-ui');
const name = new URLSearchParams(location.search).get('name');
const answers = (await (await fetch(`/answers/${name}.json`)).json()) as Answers;
createRoot(document.getElementById('root') as HTMLElement).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <Page answers={answers} />
    <PortalContainer />
  </ThemeContext.Provider>,
);
