// Field configuration: Grafana's server has the lists of options in its panel plugins, which no package contains. The
// list here follows from the options that a panel has.

import {
  type DataFrame,
  FieldColorModeId,
  FieldConfigOptionsRegistry,
  type FieldConfigPropertyItem,
  type FieldConfigSource,
  type GrafanaTheme2,
  type InterpolateFunction,
  applyFieldOverrides,
  cacheFieldDisplayNames,
  identityOverrideProcessor,
  displayNameOverrideProcessor,
  thresholdsOverrideProcessor,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';

// Panels whose series have a colour each; other panels colour by thresholds.
const COLOURED_BY_SERIES = new Set(['timeseries', 'barchart', 'piechart', 'trend', 'xychart']);

const STANDARD: Record<string, FieldConfigPropertyItem['process']> = {
  unit: unitOverrideProcessor,
  min: identityOverrideProcessor,
  max: identityOverrideProcessor,
  decimals: identityOverrideProcessor,
  fieldMinMax: identityOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  description: identityOverrideProcessor,
  noValue: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  color: identityOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: identityOverrideProcessor,
  filterable: identityOverrideProcessor,
};

// Returns the frames with the panel's defaults and overrides.
export function configured(
  type: string,
  data: DataFrame[],
  source: FieldConfigSource,
  theme: GrafanaTheme2,
  replaceVariables: InterpolateFunction
): DataFrame[] {
  const mode = COLOURED_BY_SERIES.has(type) ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds;
  const fieldConfig = { ...source, defaults: { color: { mode }, ...source.defaults } };
  const fieldConfigRegistry = registry(fieldConfig);
  const timeZone = 'browser';
  const frames = applyFieldOverrides({ data, fieldConfig, fieldConfigRegistry, theme, replaceVariables, timeZone });
  // Tables name their columns by it.
  cacheFieldDisplayNames(frames);
  return frames;
}

// An unknown option is an error: it would be ignored, and the picture would differ from Grafana's.
function registry({ defaults, overrides }: FieldConfigSource): FieldConfigOptionsRegistry {
  const item = (id: string, process: FieldConfigPropertyItem['process']): FieldConfigPropertyItem => {
    const isCustom = id.startsWith('custom.');
    const path = isCustom ? id.slice('custom.'.length) : id;
    return { id, path, name: id, isCustom, process, override: () => null, editor: () => null, shouldApply: () => true };
  };
  const ids = new Set<string>();
  for (const key of Object.keys(defaults)) {
    if (key !== 'custom') {
      ids.add(key);
    }
  }
  for (const key of Object.keys(defaults.custom ?? {})) {
    ids.add(`custom.${key}`);
  }
  for (const { id } of overrides.flatMap((rule) => rule.properties)) {
    ids.add(id);
  }
  const items = [...ids].map((id) => {
    const process = id.startsWith('custom.') ? identityOverrideProcessor : STANDARD[id];
    if (!process) {
      throw new Error(`unknown field option ${id}`);
    }
    return item(id, process);
  });
  return new FieldConfigOptionsRegistry(() => items);
}
