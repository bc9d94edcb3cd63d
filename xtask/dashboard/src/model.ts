// Types of a dashboard's JSON, as far as the renderer reads it, and of the data between browser and command.

import type { DataTransformerConfig, FieldConfigSource } from '@grafana/data';

export interface Target {
  refId: string;
  expr: string;
  legendFormat?: string;
  format?: 'time_series' | 'table' | 'heatmap';
  instant?: boolean;
  range?: boolean;
  hide?: boolean;
}

export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig?: FieldConfigSource;
  options?: Record<string, any>;
  targets?: Target[];
  transformations?: DataTransformerConfig[];
  transparent?: boolean;
  repeat?: string;
  // Of a row: its panels while it is collapsed.
  collapsed?: boolean;
  panels?: Panel[];
}

export interface Variable {
  name: string;
  label?: string;
  type: string;
  query?: string | { query: string };
  regex?: string;
  current?: { value?: string | string[] };
  options?: { value: string; selected?: boolean }[];
  includeAll?: boolean;
  allValue?: string | null;
  hide?: number;
}

export interface Dashboard {
  title: string;
  panels: Panel[];
  templating?: { list: Variable[] };
  timezone?: string;
}

// Settings of a rendering: the Prometheus, the time range in Unix seconds, the scrape interval of the data source, and
// the titles of the rows to draw (all rows if empty).
export interface Settings {
  prometheus: string;
  from: number;
  to: number;
  scrapeSeconds: number;
  rows: string[];
  width: number;
}

// Result of a rendering: the number of panels drawn, and for each failure the panel's title and the reason.
export interface Report {
  panels: number;
  failures: { panel: string; reason: string }[];
}

declare global {
  interface Window {
    mailflowReport?: Report;
  }
}
