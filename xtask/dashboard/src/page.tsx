// Page that draws one dashboard. Where it succeeds or fails it leaves a report in `window.mailflowReport`.

import {
  type DataFrame,
  type TimeRange,
  createTheme,
  dateTime,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, PanelChrome, PortalContainer, ThemeContext } from '@grafana/ui';
import { Component, type ReactElement, type ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';

import type { Dashboard, Panel, Report, Settings } from './model';
import { PanelBody, checkData, checkType } from './panels';
import { Prometheus } from './prometheus';
import { Variables } from './variables';

// Grafana's grid: 24 columns of cells 30 pixels high, with 8 pixels between them.
const COLUMNS = 24;
const CELL = 30;
const MARGIN = 8;
const HEADER = 56;

const report: Report = { panels: 0, failures: [] };

function fail(panel: string, error: unknown): void {
  report.failures.push({ panel, reason: error instanceof Error ? error.message : String(error) });
}

class ErrorBoundary extends Component<{ panel: string; children: ReactNode }, { failed: boolean }> {
  state = { failed: false };

  static getDerivedStateFromError() {
    return { failed: true };
  }

  componentDidCatch(error: Error) {
    fail(this.props.panel, error);
  }

  render() {
    return this.state.failed ? null : this.props.children;
  }
}

interface Drawing {
  panel: Panel;
  frames: DataFrame[];
}

// Returns the panels in the order of the page, with those of collapsed rows below their row.
function flat(panels: Panel[]): Panel[] {
  let shift = 0;
  return panels.flatMap((panel) => {
    const moved = (one: Panel): Panel => ({ ...one, gridPos: { ...one.gridPos, y: one.gridPos.y + shift } });
    const row = moved(panel);
    const inside = (panel.type === 'row' && panel.collapsed && panel.panels) || [];
    const hidden = inside.map(moved);
    shift += Math.max(0, ...inside.map(({ gridPos }) => gridPos.y + gridPos.h)) - (inside.length ? panel.gridPos.y + 1 : 0);
    return [row, ...hidden];
  });
}

// Returns the panels of the rows with these titles, moved to the top of the page.
function selected(panels: Panel[], rows: string[]): Panel[] {
  if (rows.length === 0) {
    return panels;
  }
  const sections: Panel[][] = [];
  for (const panel of panels) {
    if (panel.type === 'row' || sections.length === 0) {
      sections.push([]);
    }
    sections.at(-1)!.push(panel);
  }
  let y = 0;
  return rows.flatMap((title) => {
    const section = sections.find(([first]) => first?.type === 'row' && first.title === title);
    if (!section) {
      throw new Error(`the dashboard has no row ${title}`);
    }
    const top = Math.min(...section.map(({ gridPos }) => gridPos.y));
    const bottom = Math.max(...section.map(({ gridPos }) => gridPos.y + gridPos.h));
    const moved = section.map((panel) => ({ ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y - top + y } }));
    y += bottom - top;
    return moved;
  });
}

async function drawing(panel: Panel, prometheus: Prometheus, variables: Variables): Promise<Drawing> {
  if (panel.type === 'row') {
    return { panel, frames: [] };
  }
  checkType(panel);
  const targets = (panel.targets ?? []).filter(({ hide }) => !hide);
  const tables = targets.filter(({ format }) => format === 'table').length;
  const answers = await Promise.all(
    targets.map((target) => prometheus.frames(target, variables.replace(target.expr), tables))
  );
  for (const [index, frames] of answers.entries()) {
    if (frames.length === 0) {
      throw new Error(`query ${targets[index]!.refId} has no series`);
    }
  }
  const transformations = (panel.transformations ?? []).filter(({ disabled }) => !disabled);
  for (const { id } of transformations) {
    if (!standardTransformersRegistry.getIfExists(id)) {
      throw new Error(`unknown transformation ${id}`);
    }
  }
  const frames = await lastValueFrom(transformDataFrame(transformations, answers.flat()));
  checkData(frames);
  return { panel, frames };
}

// Draws the header of the page: title, variables, time range.
function Header({ dashboard, variables, range }: { dashboard: Dashboard; variables: Variables; range: TimeRange }) {
  const theme = createTheme({ colors: { mode: 'dark' } });
  const box = { border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, padding: '5px 8px', marginLeft: 8 };
  const time = (at: TimeRange['from']) => at.format('HH:mm');
  return (
    <div style={{ display: 'flex', alignItems: 'center', height: HEADER, padding: `0 ${MARGIN}px` }}>
      <span style={{ fontSize: 18, fontWeight: 500, flexGrow: 1 }}>{dashboard.title}</span>
      {variables.shown().map(({ label, text }) => (
        <span key={label} style={box}>
          <span style={{ color: theme.colors.text.secondary }}>{label}</span> {text}
        </span>
      ))}
      <span style={box}>
        {time(range.from)} to {time(range.to)}
      </span>
    </div>
  );
}

function Page({ drawings, variables, range, width }: {
  drawings: Drawing[];
  variables: Variables;
  range: TimeRange;
  width: number;
}): ReactElement {
  const column = (width - MARGIN) / COLUMNS;
  const bottom = Math.max(...drawings.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  return (
    <div style={{ position: 'relative', height: bottom * (CELL + MARGIN) + MARGIN }}>
      {drawings.map(({ panel, frames }) => {
        const { x, y, w, h } = panel.gridPos;
        const size = { width: w * column - MARGIN, height: h * (CELL + MARGIN) - MARGIN };
        const place = { position: 'absolute' as const, left: MARGIN + x * column, top: MARGIN + y * (CELL + MARGIN), ...size };
        const title = variables.replace(panel.title);
        if (panel.type === 'row') {
          return (
            <div key={panel.id} style={{ ...place, fontWeight: 500, lineHeight: `${CELL}px` }}>
              ⌄&ensp;{title}
            </div>
          );
        }
        return (
          <div key={panel.id} style={place} data-panel={title}>
            <PanelChrome
              title={title}
              description={panel.description}
              displayMode={panel.transparent ? 'transparent' : 'default'}
              {...size}
            >
              {(width: number, height: number) => (
                <ErrorBoundary panel={title}>
                  <PanelBody
                    panel={panel}
                    frames={frames}
                    timeRange={range}
                    replace={(text) => variables.replace(text)}
                    width={width}
                    height={height}
                  />
                </ErrorBoundary>
              )}
            </PanelChrome>
          </div>
        );
      })}
    </div>
  );
}

async function main(): Promise<void> {
  const get = async (path: string) => (await fetch(path)).json();
  const settings: Settings = await get('/settings.json');
  const dashboard: Dashboard = await get('/dashboard.json');
  await initPluginTranslations('grafana', []);
  // Two names of a transformation may have one id.
  const transformers = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));
  standardTransformersRegistry.setInit(() =>
    [...transformers].map(([id, transformation]) => ({
      id,
      name: transformation.name,
      transformation: async () => transformation,
      editor: () => null,
      imageDark: '',
      imageLight: '',
    }))
  );
  const prometheus = new Prometheus(settings);
  const variables = await Variables.load(dashboard, prometheus);
  const panels = selected(flat(dashboard.panels), settings.rows);
  const drawings: Drawing[] = [];
  for (const panel of panels) {
    try {
      drawings.push(await drawing(panel, prometheus, variables));
    } catch (error) {
      fail(panel.title, error);
    }
  }
  report.panels = drawings.filter(({ panel }) => panel.type !== 'row').length;
  const from = dateTime(settings.from * 1000);
  const to = dateTime(settings.to * 1000);
  const range: TimeRange = { from, to, raw: { from, to } };
  await document.fonts.load('400 12px Inter');
  await document.fonts.load('500 12px Inter');
  createRoot(document.getElementById('page')!).render(
    <ThemeContext.Provider value={createTheme({ colors: { mode: 'dark' } })}>
      <GlobalStyles />
      <Header dashboard={dashboard} variables={variables} range={range} />
      <Page drawings={drawings} variables={variables} range={range} width={settings.width} />
      <PortalContainer />
    </ThemeContext.Provider>
  );
}

window.addEventListener('error', ({ error, message }) => fail('the page', error ?? message));
main()
  .catch((error) => fail('the page', error))
  // Canvases are drawn in the frames after the rendering.
  .then(() => new Promise((done) => setTimeout(done, 2000)))
  .then(() => (window.mailflowReport = report));
