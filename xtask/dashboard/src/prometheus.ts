// Queries of Prometheus, and their answers as Grafana's data frames.

import { type DataFrame, type Field, FieldType, type Labels, createDataFrame } from '@grafana/data';

import type { Settings, Target } from './model';

interface Series {
  metric: Labels;
  value?: [number, string];
  values?: [number, string][];
}

// Largest number of points of a series, as Grafana asks for one point a pixel.
const MAX_POINTS = 600;

export class Prometheus {
  constructor(private readonly settings: Settings) {}

  // Returns the step of range queries in seconds: whole scrape intervals.
  step(): number {
    const { from, to, scrapeSeconds } = this.settings;
    return Math.max(1, Math.ceil((to - from) / MAX_POINTS / scrapeSeconds)) * scrapeSeconds;
  }

  // Returns the values of Grafana's built-in variables.
  builtIn(): Record<string, string> {
    const { from, to, scrapeSeconds } = this.settings;
    const step = this.step();
    return {
      __interval: `${step}s`,
      __interval_ms: `${step * 1000}`,
      // The definition of Grafana's data source.
      __rate_interval: `${Math.max(step + scrapeSeconds, 4 * scrapeSeconds)}s`,
      __range: `${to - from}s`,
      __range_s: `${to - from}`,
      __range_ms: `${(to - from) * 1000}`,
      __from: `${from * 1000}`,
      __to: `${to * 1000}`,
    };
  }

  // Returns the frames of a target whose expression has no variables left.
  async frames(target: Target, expression: string, tables: number): Promise<DataFrame[]> {
    const { from, to } = this.settings;
    const step = this.step();
    const instant = target.instant === true && target.range !== true;
    const answer = instant
      ? await this.get('query', { query: expression, time: `${to}` })
      : await this.get('query_range', { query: expression, start: `${from}`, end: `${to}`, step: `${step}` });
    if (answer.resultType === 'scalar') {
      return [seriesFrame(target, { metric: {}, values: [answer.result] }, step)];
    }
    const series: Series[] = answer.result;
    if (target.format === 'table') {
      return series.length === 0 ? [] : [tableFrame(target, series, tables)];
    }
    return series.map((one) => seriesFrame(target, one, step));
  }

  // Returns the values of a variable's query.
  async variable(query: string): Promise<string[]> {
    const labels = query.match(/^\s*label_values\(\s*(?:(.+)\s*,\s*)?([A-Za-z_][A-Za-z0-9_]*)\s*\)\s*$/s);
    if (labels) {
      const match: Record<string, string> = labels[1] ? { 'match[]': labels[1] } : {};
      return this.get(`label/${labels[2]}/values`, { ...match, ...this.range() });
    }
    const metrics = query.match(/^\s*metrics\((.*)\)\s*$/);
    if (metrics) {
      const names: string[] = await this.get('label/__name__/values', this.range());
      return names.filter((name) => new RegExp(metrics[1] ?? '').test(name));
    }
    const result = query.match(/^\s*query_result\((.*)\)\s*$/s);
    if (result) {
      const answer = await this.get('query', { query: result[1] ?? '', time: `${this.settings.to}` });
      return answer.result.map((one: Series) => `${text(one.metric)} ${one.value?.[1]} ${one.value?.[0]}`);
    }
    throw new Error(`cannot evaluate the variable query ${query}`);
  }

  private range(): Record<string, string> {
    return { start: `${this.settings.from}`, end: `${this.settings.to}` };
  }

  private async get(path: string, parameters: Record<string, string>): Promise<any> {
    const response = await fetch(`${this.settings.prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const answer = await response.json();
    if (answer.status !== 'success') {
      throw new Error(`Prometheus refuses ${parameters.query ?? path}: ${answer.error}`);
    }
    return answer.data;
  }
}

// Returns labels as PromQL writes them.
function text({ __name__: name = '', ...labels }: Labels): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return pairs.length === 0 ? name : `${name}{${pairs.join(', ')}}`;
}

// Returns the name of a series: its legend, or its labels.
function legend(target: Target, labels: Labels): string {
  const format = target.legendFormat;
  if (!format || format === '__auto') {
    return text(labels) || target.expr;
  }
  return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label: string) => labels[label] ?? '');
}

function seriesFrame(target: Target, { metric, value, values }: Series, step: number): DataFrame {
  const points = values ?? (value ? [value] : []);
  const name = legend(target, metric);
  return createDataFrame({
    refId: target.refId,
    name,
    fields: [
      // Grafana breaks a line where points are further apart than the interval.
      { name: 'Time', type: FieldType.time, config: { interval: step * 1000 }, values: points.map(([time]) => time * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: metric,
        config: { displayNameFromDS: name },
        values: points.map(([, number]) => Number(number)),
      },
    ],
  });
}

// Returns all series as one table: a column for the time, for each label, and for the value.
function tableFrame(target: Target, series: Series[], tables: number): DataFrame {
  const names = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const rows = series.flatMap(({ metric, value, values }) =>
    (values ?? (value ? [value] : [])).map(([time, number]) => ({ metric, time, number }))
  );
  const label = (name: string): Omit<Field, 'config'> & { config: {} } => ({
    name,
    type: FieldType.string,
    config: { filterable: true },
    values: rows.map(({ metric }) => metric[name] ?? ''),
  });
  return createDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: rows.map(({ time }) => time * 1000) },
      ...names.map(label),
      {
        name: tables > 1 ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        config: {},
        values: rows.map(({ number }) => Number(number)),
      },
    ],
  });
}
