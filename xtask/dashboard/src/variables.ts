// Variables of a dashboard, with the values that it has when it is opened.

import type { Dashboard, Variable } from './model';
import type { Prometheus } from './prometheus';

const ALL = '$__all';

export interface Value {
  label: string;
  // As the dashboard's header shows it.
  text: string;
  // As an expression gets it.
  query: string;
  hidden: boolean;
}

export class Variables {
  private readonly values = new Map<string, Value>();

  private constructor(private readonly builtIn: Record<string, string>) {}

  // Evaluates the variables in their order: a query may contain variables before it.
  static async load(dashboard: Dashboard, prometheus: Prometheus): Promise<Variables> {
    const variables = new Variables(prometheus.builtIn());
    for (const variable of dashboard.templating?.list ?? []) {
      const value = await variables.evaluate(variable, prometheus);
      if (value) {
        variables.values.set(variable.name, {
          label: variable.label || variable.name,
          hidden: (variable.hide ?? 0) === 2,
          ...value,
        });
      }
    }
    return variables;
  }

  shown(): Value[] {
    return [...this.values.values()].filter((value) => !value.hidden);
  }

  // Replaces `$name`, `${name}`, `${name:format}` and `[[name]]`. An unknown variable is an error.
  replace(text: string): string {
    const pattern = /\$(\w+)|\$\{(\w+)(?::(\w+))?\}|\[\[(\w+)\]\]/g;
    return text.replace(pattern, (whole, plain, braced, _format, bracketed) => {
      const name: string = plain ?? braced ?? bracketed;
      const value = this.values.get(name)?.query ?? this.builtIn[name];
      if (value === undefined) {
        throw new Error(`${whole} is no variable of the dashboard`);
      }
      return value;
    });
  }

  private async evaluate(variable: Variable, prometheus: Prometheus): Promise<{ text: string; query: string } | null> {
    const query = typeof variable.query === 'string' ? variable.query : (variable.query?.query ?? '');
    switch (variable.type) {
      case 'datasource':
        return { text: 'Prometheus', query: 'prometheus' };
      case 'constant':
      case 'textbox':
        return { text: query, query };
      case 'adhoc':
        return null;
      case 'custom':
      case 'interval':
        return chosen(variable, query.split(',').map((value) => value.trim().replace(/^.* : /, '')));
      case 'query': {
        const found = await prometheus.variable(this.replace(query));
        return chosen(variable, filtered(found, variable.regex));
      }
      default:
        throw new Error(`variable ${variable.name}: unknown type ${variable.type}`);
    }
  }
}

// Applies a variable's regular expression: its first group is the value.
function filtered(values: string[], regex?: string): string[] {
  if (!regex) {
    return values;
  }
  const pattern = new RegExp(regex.replace(/^\/(.*)\/\w*$/s, '$1'));
  return values.flatMap((value) => {
    const match = value.match(pattern);
    return match ? [match[1] ?? match[0]] : [];
  });
}

// Returns the stored selection, or else all values, or else the first one.
function chosen(variable: Variable, values: string[]): { text: string; query: string } {
  if (values.length === 0) {
    throw new Error(`variable ${variable.name} has no values`);
  }
  const stored = [variable.current?.value ?? []].flat().filter((value) => value === ALL || values.includes(value));
  const selection = stored.length > 0 ? stored : variable.includeAll ? [ALL] : values.slice(0, 1);
  if (selection.includes(ALL)) {
    return { text: 'All', query: variable.allValue || alternatives(values) };
  }
  const query = selection.length === 1 ? selection[0]! : alternatives(selection);
  return { text: selection.join(' + '), query };
}

function alternatives(values: string[]): string {
  return `(${values.map((value) => value.replace(/[\\^$.*+?()[\]{}|]/g, '\\\\$&')).join('|')})`;
}
