// Panels by type, drawn with the components of @grafana/ui.

import {
  type DataFrame,
  type FieldConfigSource,
  type FieldDisplay,
  FieldType,
  type TimeRange,
  VizOrientation,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
} from '@grafana/data';
import {
  BarGaugeNamePlacement,
  BarGaugeSizing,
  BarGaugeValueMode,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  BarGaugeDisplayMode,
  LegendDisplayMode,
} from '@grafana/schema';
import { BarGauge, BigValue, TimeSeries, VizRepeater, useTheme2 } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import type { ReactElement } from 'react';

import { configured } from './fields';
import type { Panel } from './model';

export interface PanelProps {
  panel: Panel;
  frames: DataFrame[];
  timeRange: TimeRange;
  replace: (text: string) => string;
  width: number;
  height: number;
}

interface BodyProps extends PanelProps {
  options: Record<string, any>;
  fieldConfig: FieldConfigSource;
}

const TYPES: Record<string, (props: BodyProps) => ReactElement> = {
  timeseries: TimeSeriesBody,
  stat: StatBody,
  bargauge: BarGaugeBody,
  table: TableBody,
};

// Throws if a panel's type cannot be drawn.
export function checkType(panel: Panel): void {
  if (!(panel.type in TYPES)) {
    throw new Error(`unknown panel type ${panel.type}`);
  }
  if (panel.repeat) {
    throw new Error('repeated panels are not drawn yet');
  }
}

// Throws if there is no number to draw.
export function checkData(frames: DataFrame[]): void {
  if (frames.length === 0) {
    throw new Error('no series');
  }
  const numbers = frames.flatMap(({ fields }) => fields.filter(({ type }) => type === FieldType.number));
  if (!numbers.some(({ values }) => values.some((value) => Number.isFinite(value)))) {
    throw new Error('no value');
  }
}

export function PanelBody(props: PanelProps): ReactElement {
  const theme = useTheme2();
  const { panel, replace } = props;
  const fieldConfig = panel.fieldConfig ?? { defaults: {}, overrides: [] };
  const frames = configured(panel.type, props.frames, fieldConfig, theme, (text) => replace(text));
  const Body = TYPES[panel.type]!;
  return <Body {...props} frames={frames} options={panel.options ?? {}} fieldConfig={fieldConfig} />;
}

function TimeSeriesBody({ frames, timeRange, width, height, options }: BodyProps): ReactElement {
  const legend = {
    displayMode: LegendDisplayMode.List,
    placement: 'bottom' as const,
    calcs: [],
    showLegend: true,
    ...options.legend,
  };
  return (
    <TimeSeries
      frames={frames}
      structureRev={1}
      timeRange={timeRange}
      timeZone="browser"
      width={width}
      height={height}
      legend={legend}
      options={options}
    />
  );
}

// Returns the reduced values of the frames, which have the panel's configuration already.
function useValues({ frames, options, fieldConfig, replace }: BodyProps, sparkline = false): FieldDisplay[] {
  const theme = useTheme2();
  return getFieldDisplayValues({
    data: frames,
    reduceOptions: { calcs: ['lastNotNull'], values: false, ...options.reduceOptions },
    fieldConfig,
    replaceVariables: (text) => replace(text),
    theme,
    sparkline,
    timeZone: 'browser',
  });
}

function orientation(options: Record<string, any>): VizOrientation {
  return options.orientation ?? VizOrientation.Auto;
}

function StatBody(props: BodyProps): ReactElement {
  const { width, height, options } = props;
  const theme = useTheme2();
  const graphMode = options.graphMode ?? BigValueGraphMode.Area;
  const values = useValues(props, graphMode !== BigValueGraphMode.None);
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          value={value.display}
          count={count}
          sparkline={value.sparkline}
          colorMode={options.colorMode ?? BigValueColorMode.Value}
          graphMode={graphMode}
          justifyMode={options.justifyMode ?? BigValueJustifyMode.Auto}
          textMode={options.textMode ?? BigValueTextMode.Auto}
          alignmentFactors={alignmentFactors}
          text={options.text}
          width={width}
          height={height}
          theme={theme}
          percentChangeColorMode={options.percentChangeColorMode}
          disableWideLayout={options.wideLayout === false}
        />
      )}
      width={width}
      height={height}
      source={props.frames}
      itemSpacing={3}
      renderCounter={0}
      autoGrid
      orientation={orientation(options)}
    />
  );
}

function BarGaugeBody(props: BodyProps): ReactElement {
  const { width, height, options } = props;
  const theme = useTheme2();
  const values = useValues(props);
  const automatic = (options.sizing ?? BarGaugeSizing.Auto) === BarGaugeSizing.Auto;
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value: { display, field, view, colIndex }, width, height, orientation, count, alignmentFactors }) => (
        <BarGauge
          value={display}
          width={width}
          height={height}
          orientation={orientation}
          field={field}
          text={options.text}
          display={view?.getFieldDisplayProcessor(colIndex ?? 0)}
          theme={theme}
          itemSpacing={8}
          displayMode={options.displayMode ?? BarGaugeDisplayMode.Gradient}
          alignmentFactors={count > 1 ? alignmentFactors : undefined}
          showUnfilled={options.showUnfilled ?? true}
          valueDisplayMode={options.valueMode ?? BarGaugeValueMode.Color}
          namePlacement={options.namePlacement ?? BarGaugeNamePlacement.Auto}
        />
      )}
      width={width}
      height={height}
      source={props.frames}
      itemSpacing={8}
      renderCounter={0}
      minVizWidth={automatic ? 8 : options.minVizWidth}
      minVizHeight={automatic ? 16 : options.minVizHeight}
      maxVizHeight={automatic ? 300 : options.maxVizHeight}
      orientation={orientation(options)}
    />
  );
}

function TableBody({ frames, timeRange, width, height, options, fieldConfig }: BodyProps): ReactElement {
  const frame = frames[options.frameIndex ?? 0] ?? frames[0]!;
  return (
    <TableNG
      data={frame}
      width={width}
      height={height}
      noHeader={options.showHeader === false}
      sortBy={options.sortBy}
      cellHeight={options.cellHeight}
      timeRange={timeRange}
      fieldConfig={fieldConfig}
      enableVirtualization={false}
      footerValues={[]}
    />
  );
}
