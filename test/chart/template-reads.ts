/**
 * Which values the templates of a chart read, found in their text. What follows `.Values` is followed through variables,
 * `with` and `$`; where a template is given a dict and cannot know what is in it, the names that it reads are compared
 * with all names that the chart knows.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import type { Documented, Group, Setting } from '../../scripts/chart-values-comments.ts';

interface Read {
  readonly place: string;
  /** What is read, such as `jobs.schema.mode`. */
  readonly path: readonly string[];
  /** Whether the path begins at the values, or somewhere else. */
  readonly isOfValues: boolean;
}

/** One sentence for each read of a value that there is not. */
export function unknownReads(chart: string, documented: Documented): string[] {
  const templates = readTemplates(join(chart, 'templates'));
  const names = namesOf(chart, documented, templates);
  const roots = documented.sections.flatMap(({ children }) => children);
  return [
    ...new Set(
      templates.flatMap(({ path, text }) =>
        readsOf(path, text).flatMap(({ place, path: read, isOfValues }) => {
          if (isOfValues)
            return exists(roots, read)
              ? []
              : [`${place} reads .Values.${read.join('.')}, which there is not`];
          const unknown = read.find((name) => /^[a-z]/.test(name) && !names.has(name));
          return unknown === undefined
            ? []
            : [`${place} reads .${unknown}, which nothing of the chart is called`];
        }),
      ),
    ),
  ].sort();
}

interface Template {
  readonly path: string;
  readonly text: string;
}

const readTemplates = (folder: string): Template[] =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((file) => ({ path: file.slice(folder.length + 1), text: readFileSync(file, 'utf8') }))
    .sort((one, other) => (one.path < other.path ? -1 : 1));

function exists(entries: readonly (Setting | Group)[], path: readonly string[]): boolean {
  // What Helm and a parent chart put there.
  if (path[0] === 'global') return true;
  const [first, ...rest] = path;
  if (first === undefined) return true;
  const entry = entries.find(({ key }) => key === first);
  if (entry === undefined) return false;
  if (entry.is === 'group') return exists(entry.children, rest);
  return rest.length === 0 || entry.values !== undefined;
}

/** Every name that a template may rightly read of what it is given. */
function namesOf(chart: string, documented: Documented, templates: readonly Template[]): Set<string> {
  const names = new Set<string>();
  const ofEntry = (entry: Setting | Group): void => {
    names.add(entry.key);
    if (entry.is === 'group') entry.children.forEach(ofEntry);
    else addKeys(entry.default, names);
  };
  for (const { children } of documented.sections) children.forEach(ofEntry);
  for (const { text } of templates) {
    // Of the dicts that templates make, and of the YAML that they write and read again.
    for (const [, name = ''] of text.matchAll(/"([A-Za-z]\w*)"/g)) names.add(name);
    for (const [, name = ''] of text.matchAll(/^\s*(?:- )?(\w+):/gm)) names.add(name);
  }
  for (const file of filesOf(join(chart, 'files')))
    for (const document of parseAllDocuments(readFileSync(file, 'utf8'))) addKeys(document.toJS(), names);
  return names;
}

function filesOf(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
  } catch {
    return []; // a chart without files
  }
}

function addKeys(value: unknown, names: Set<string>): void {
  if (value === null || typeof value !== 'object') return;
  for (const [key, inner] of Object.entries(value)) {
    names.add(key);
    addKeys(inner, names);
  }
}

/** Path from the values on; undefined where nobody knows what is there. */
type Place = readonly string[] | undefined;

function readsOf(path: string, text: string): Read[] {
  const scope = new Scope();
  return actionsOf(text).flatMap(({ action, line }) => {
    const reads = scope.reads(action).map((read) => ({ place: `${path}:${line}`, ...read }));
    scope.enter(action);
    return reads;
  });
}

/** What variables and the dot stand for, from one action to the next. */
class Scope {
  readonly #variables = new Map<string, Place>();
  #dot: Place;
  readonly #outer: Place[] = [];

  reads(action: string): Omit<Read, 'place'>[] {
    const chains = [...action.matchAll(/(?<![\w.)])(\$\w*)?((?:\.[A-Za-z_]\w*)+)/g)].map(
      ([, start = '', chain = '']) => {
        const path = this.#resolve(start, chain);
        return path === undefined ? { path: partsOf(chain), isOfValues: false } : { path, isOfValues: true };
      },
    );
    // Of what an expression in brackets gives, nobody knows whence it comes.
    const ofBrackets = [...action.matchAll(/\)((?:\.[A-Za-z_]\w*)+)/g)].map(([, chain = '']) => ({
      path: partsOf(chain),
      isOfValues: false,
    }));
    return [...chains, ...ofBrackets];
  }

  enter(action: string): void {
    const keyword = /^\w+/.exec(action)?.[0];
    const { variable, expression } =
      /^(?:with |if |else if |else with )?\s*(?<variable>\$\w+)\s*:?=\s*(?<expression>.*)$/.exec(action)
        ?.groups ?? {};
    const target = this.#placeOf(expression ?? action.replace(/^(?:else )?with /, ''));
    if (variable !== undefined) this.#variables.set(variable, target);
    if (keyword === 'end') this.#dot = this.#outer.pop();
    else if (keyword === 'else') this.#dot = /^else with\b/.test(action) ? target : this.#outer.at(-1);
    else if (keyword !== undefined && ['if', 'with', 'range', 'define', 'block'].includes(keyword)) {
      this.#outer.push(this.#dot);
      if (keyword === 'define') this.#variables.clear();
      if (keyword !== 'if') this.#dot = keyword === 'with' ? target : undefined;
    }
  }

  /** Of an expression that is a path and nothing else; what functions make of a value is not followed. */
  #placeOf(expression: string): Place {
    if (expression.trim() === '.') return this.#dot;
    const whole = /^(\$\w*)?((?:\.[A-Za-z_]\w*)*)$/.exec(expression.trim());
    return whole === null || whole[0] === '' ? undefined : this.#resolve(whole[1] ?? '', whole[2] ?? '');
  }

  #resolve(start: string, chain: string): Place {
    const parts = partsOf(chain);
    const at = parts.indexOf('Values');
    if (at >= 0) return parts.slice(at + 1);
    const from = start === '' ? this.#dot : this.#variables.get(start);
    return from === undefined ? undefined : [...from, ...parts];
  }
}

const partsOf = (chain: string) => chain.split('.').filter((part) => part !== '');

/** What stands between the braces, without comments and texts, with the line on which it begins. */
function actionsOf(text: string): { action: string; line: number }[] {
  const actions: { action: string; line: number }[] = [];
  for (const match of text.matchAll(
    /\{\{-?\s*(\/\*[\s\S]*?\*\/|(?:"(?:\\.|[^"\\])*"|`[^`]*`|(?!\}\})[\s\S])*?)\s*-?\}\}/g,
  )) {
    const action = match[1] ?? '';
    if (action.startsWith('/*')) continue;
    actions.push({
      action: action.replace(/"(?:\\.|[^"\\])*"|`[^`]*`/g, '""'),
      line: text.slice(0, match.index).split('\n').length,
    });
  }
  return actions;
}
