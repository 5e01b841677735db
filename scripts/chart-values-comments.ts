/**
 * Reads `values.yaml` with the comments that document it. A block of comment right above a key documents it; a line
 * `# @…` in it is a directive (charts/counterfoil/README.md, "How values are documented"). Whatever the comments leave open
 * or say twice is a problem: what nobody can read in the table, nobody can set.
 */
import { isMap, isScalar, LineCounter, type Pair, parseDocument, type YAMLMap } from 'yaml';

export const types = ['string', 'integer', 'number', 'boolean', 'object', 'array', 'null'] as const;
export type ValueType = (typeof types)[number];

/** What may be set, and to what. */
export interface Setting {
  readonly is: 'setting';
  /** Such as `jobs.eventReplay.schedule`. */
  readonly path: string;
  readonly key: string;
  readonly description: string;
  readonly default: unknown;
  readonly types: readonly ValueType[];
  readonly enum?: readonly string[];
  readonly min?: number;
  readonly max?: number;
  readonly pattern?: string;
  /** Of a list: the types of its items. */
  readonly items?: readonly ValueType[];
  /** Of an object with any keys: the types of their values; of one that Kubernetes defines: `open`. */
  readonly values?: readonly ValueType[] | 'open';
  readonly isRequired: boolean;
}

/** An object whose keys are all known. */
export interface Group {
  readonly is: 'group';
  readonly path: string;
  readonly key: string;
  readonly description: string;
  readonly children: readonly (Setting | Group)[];
}

/** A heading of the table, with the keys at the top that stand under it. */
export interface Section {
  readonly title: string;
  readonly intro: string;
  readonly children: (Setting | Group)[];
}

export interface Documented {
  readonly sections: readonly Section[];
  /** One sentence each, with its line. */
  readonly problems: readonly string[];
}

const directives = [
  'section',
  'type',
  'enum',
  'min',
  'max',
  'pattern',
  'items',
  'values',
  'open',
  'required',
] as const;
type Directive = (typeof directives)[number];

interface Comment {
  readonly line: number;
  readonly text: string;
  readonly given: ReadonlyMap<Directive, string>;
}

export function readValues(text: string): Documented {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter });
  if (document.errors.length > 0)
    return { sections: [], problems: document.errors.map(({ message }) => message) };
  if (!isMap(document.contents)) return { sections: [], problems: ['there is no key'] };
  return new Reading(text.split('\n'), lineCounter).read(document.contents);
}

class Reading {
  readonly #lines: readonly string[];
  readonly #lineCounter: LineCounter;
  readonly #problems: [line: number, problem: string][] = [];
  readonly #sections: Section[] = [];
  /** Numbers of the lines of comment that document nothing so far. */
  readonly #unread: Set<number>;

  constructor(lines: readonly string[], lineCounter: LineCounter) {
    this.#lines = lines;
    this.#lineCounter = lineCounter;
    this.#unread = new Set(
      lines.flatMap((line, index) => (line.trimStart().startsWith('#') ? [index + 1] : [])),
    );
  }

  read(root: YAMLMap): Documented {
    for (const pair of root.items) {
      const line = this.#lineOf(pair);
      const comment = this.#commentAbove(line);
      this.#openSections(line, comment);
      const section = this.#sections.at(-1);
      if (section === undefined) this.#report(line, `${String(pair.key)} stands under no @section`);
      else section.children.push(this.#entry(pair, '', comment));
    }
    for (const line of this.#unread)
      this.#report(line, 'a comment that documents nothing: it must stand right above a key');
    return {
      sections: this.#sections,
      problems: this.#problems
        .sort(([one], [other]) => one - other)
        .map(([line, problem]) => `line ${line}: ${problem}`),
    };
  }

  #report(line: number, problem: string): void {
    this.#problems.push([line, problem]);
  }

  #lineOf(pair: Pair): number {
    const { range } = pair.key as { range?: readonly [number, number, number] };
    return this.#lineCounter.linePos(range?.[0] ?? 0).line;
  }

  #commentAbove(line: number): Comment {
    let first = line;
    while (this.#unread.has(first - 1)) first -= 1;
    return this.#comment(first, line);
  }

  /** The comment on the lines from `first` on, before `end`. */
  #comment(first: number, end: number): Comment {
    const prose: string[] = [];
    const given = new Map<Directive, string>();
    for (let line = first; line < end; line += 1) {
      this.#unread.delete(line);
      const words = (this.#lines[line - 1] ?? '').trim().replace(/^#\s?/, '');
      if (!words.startsWith('@')) {
        prose.push(words);
        continue;
      }
      const [, name = '', argument = ''] = /^@(\S*)\s*(.*)$/.exec(words) ?? [];
      const directive = directives.find((known) => known === name);
      if (directive === undefined) this.#report(line, `@${name} is no directive`);
      else if (given.has(directive)) this.#report(line, `@${name} is given twice`);
      else given.set(directive, argument.trim());
    }
    return { line: first, text: prose.join(' ').trim(), given };
  }

  /** A section may stand on its own above a blank line, or in the comment of its first key. */
  #openSections(line: number, comment: Comment): void {
    for (const start of [...this.#unread].filter((number) => number < line)) {
      if (!this.#unread.has(start) || !/^#\s*@section\b/.test(this.#lines[start - 1] ?? '')) continue;
      let end = start;
      while (this.#unread.has(end)) end += 1;
      const { given, text } = this.#comment(start, end);
      if (given.size > 1) this.#report(start, 'a section of its own has no other directive');
      this.#openSection(start, given.get('section') ?? '', text);
    }
    const title = comment.given.get('section');
    if (title !== undefined) this.#openSection(comment.line, title, '');
  }

  #openSection(line: number, title: string, intro: string): void {
    if (title === '') this.#report(line, '@section has no title');
    if (this.#sections.some((section) => section.title === title))
      this.#report(line, `there are two sections "${title}"`);
    this.#sections.push({ title, intro, children: [] });
  }

  #entry(pair: Pair, parent: string, comment: Comment): Setting | Group {
    const key = isScalar(pair.key) ? String(pair.key.value) : '';
    const path = parent === '' ? key : `${parent}.${key}`;
    const line = this.#lineOf(pair);
    if (parent !== '' && comment.given.has('section'))
      this.#report(line, `${path}: @section stands at the top`);
    const { value } = pair;
    if (
      isMap(value) &&
      value.items.length > 0 &&
      !comment.given.has('open') &&
      !comment.given.has('values')
    ) {
      for (const name of comment.given.keys())
        if (name !== 'section') this.#report(line, `${path}: @${name} is for what has no keys below it`);
      return {
        is: 'group',
        path,
        key,
        description: comment.text,
        children: value.items.map((child) =>
          this.#entry(child, path, this.#commentAbove(this.#lineOf(child))),
        ),
      };
    }
    return this.#setting(path, key, line, comment, plain(value));
  }

  #setting(path: string, key: string, line: number, comment: Comment, value: unknown): Setting {
    const { given } = comment;
    const problem = (text: string) => this.#report(line, `${path}: ${text}`);
    if (comment.text === '') problem('is not documented');
    const listed = (name: Directive): ValueType[] | undefined => {
      if (!given.has(name)) return undefined;
      return (given.get(name) ?? '').split(',').flatMap((word) => {
        const type = types.find((known) => known === word.trim());
        if (type === undefined) problem(`@${name} names "${word.trim()}", which is no type`);
        return type === undefined ? [] : [type];
      });
    };
    const number = (name: 'min' | 'max'): number | undefined => {
      if (!given.has(name)) return undefined;
      const argument = given.get(name) ?? '';
      const read = Number(argument);
      if (argument !== '' && Number.isFinite(read)) return read;
      problem(`@${name} needs a number`);
      return undefined;
    };
    const own = typeOf(value);
    const typesGiven = listed('type') ?? [own];
    if (own === 'null' && !given.has('type')) problem('null says no type: give @type');
    const items = listed('items');
    const values = given.has('open') ? 'open' : listed('values');
    const min = number('min');
    const max = number('max');
    const pattern = given.get('pattern');
    const words = given
      .get('enum')
      ?.split(',')
      .map((word) => word.trim());
    const has = (...some: readonly ValueType[]) => typesGiven.some((type) => some.includes(type));
    if (given.has('open') && given.has('values')) problem('@open and @values exclude each other');
    if (values !== undefined && !has('object')) problem('@open and @values are for objects');
    if (values === undefined && has('object')) problem('say what is in it: @open or @values');
    if (items !== undefined && !has('array')) problem('@items is for lists');
    if (items === undefined && has('array')) problem('say what is in it: @items');
    if ((min !== undefined || max !== undefined) && !has('integer', 'number'))
      problem('@min and @max are for numbers');
    if ((pattern !== undefined || words !== undefined || given.has('required')) && !has('string'))
      problem('@pattern, @enum and @required are for strings');
    if (pattern !== undefined) for (const text of patternProblems(pattern)) problem(text);
    if (words?.some((word) => word === '')) problem('@enum has an empty word');
    const setting: Setting = {
      is: 'setting',
      path,
      key,
      description: comment.text,
      default: value,
      types: typesGiven,
      ...(words === undefined ? {} : { enum: words }),
      ...(min === undefined ? {} : { min }),
      ...(max === undefined ? {} : { max }),
      ...(pattern === undefined ? {} : { pattern }),
      ...(items === undefined ? {} : { items }),
      ...(values === undefined ? {} : { values }),
      isRequired: given.has('required'),
    };
    for (const text of brokenRules(setting)) problem(`the default ${text}`);
    return setting;
  }
}

const plain = (node: unknown): unknown =>
  node !== null && typeof node === 'object' && 'toJSON' in node
    ? (node as { toJSON(): unknown }).toJSON()
    : null;

function typeOf(value: unknown): ValueType {
  if (value === null || value === undefined) return 'null';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  if (typeof value === 'string' || typeof value === 'boolean' || typeof value === 'object')
    return typeof value as ValueType;
  throw new Error(`a ${typeof value} in values.yaml`);
}

const isOf = (value: unknown, allowed: readonly ValueType[]) => {
  const own = typeOf(value);
  return allowed.includes(own) || (own === 'integer' && allowed.includes('number'));
};

/** Helm reads patterns as Go does, which has neither look-around nor back references. */
function patternProblems(pattern: string): string[] {
  const problems: string[] = [];
  try {
    new RegExp(pattern, 'u');
  } catch {
    problems.push('@pattern is no regular expression');
  }
  if (/\(\?[=!<]|\\[1-9]/.test(pattern)) problems.push('@pattern uses what Go does not know');
  if (!pattern.startsWith('^') || !pattern.endsWith('$'))
    problems.push('@pattern must begin with ^ and end with $');
  return problems;
}

function brokenRules(setting: Setting): string[] {
  const { default: value, min, max, pattern } = setting;
  const broken: string[] = [];
  if (!isOf(value, setting.types)) broken.push(`is ${typeOf(value)}, not ${setting.types.join(' or ')}`);
  if (typeof value === 'number' && ((min !== undefined && value < min) || (max !== undefined && value > max)))
    broken.push('is outside @min and @max');
  if (typeof value === 'string') {
    if (setting.enum !== undefined && !setting.enum.includes(value)) broken.push('is not in @enum');
    if (setting.isRequired && value === '') broken.push('is empty, and @required');
    if (
      pattern !== undefined &&
      patternProblems(pattern).length === 0 &&
      !new RegExp(pattern, 'u').test(value)
    )
      broken.push('does not match @pattern');
  }
  if (Array.isArray(value) && setting.items !== undefined) {
    const { items } = setting;
    if (!value.every((item) => isOf(item, items)))
      broken.push(`has items that are not ${items.join(' or ')}`);
  }
  if (typeOf(value) === 'object' && Array.isArray(setting.values)) {
    const allowed = setting.values as readonly ValueType[];
    if (!Object.values(value as object).every((one) => isOf(one, allowed)))
      broken.push(`has values that are not ${allowed.join(' or ')}`);
  }
  return broken;
}
