/** What a PromQL expression asks for: as much of its grammar as that needs. */

export interface Selector {
  readonly metric: string;
  /** Its matchers as written: label, operator, value. */
  readonly matchers: readonly { readonly label: string; readonly operator: string; readonly value: string }[];
}

export interface Asked {
  readonly selectors: readonly Selector[];
  /** Labels in by, on and group_left. */
  readonly labels: readonly string[];
}

const token =
  /"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^\]]*\]|\d[\w.]*|[a-zA-Z_:][\w:]*|=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},]|\s+/gy;
const keywords = new Set(['and', 'or', 'unless', 'bool', 'offset', 'NaN', 'Inf']);
const grouping = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right']);

export function askedBy(expression: string): Asked {
  const tokens = tokensOf(expression);
  const selectors: Selector[] = [];
  const labels: string[] = [];
  for (let at = 0; at < tokens.length; at += 1) {
    const name = tokens[at] ?? '';
    if (!/^[a-zA-Z_:]/.test(name) || keywords.has(name)) continue;
    if (grouping.has(name) && tokens[at + 1] === '(') {
      for (at += 2; tokens[at] !== ')'; at += 1) if (tokens[at] !== ',') labels.push(tokens[at] ?? '');
      continue;
    }
    // A function, or an aggregation.
    if (tokens[at + 1] === '(' || grouping.has(tokens[at + 1] ?? '')) continue;
    const matchers: { label: string; operator: string; value: string }[] = [];
    if (tokens[at + 1] === '{') {
      for (at += 2; tokens[at] !== '}'; at += 1) {
        if (tokens[at] === ',') continue;
        matchers.push({
          label: tokens[at] ?? '',
          operator: tokens[at + 1] ?? '',
          value: (tokens[at + 2] ?? '').slice(1, -1),
        });
        at += 2;
        if (at >= tokens.length) throw new Error(`a selector without end: ${expression}`);
      }
    }
    selectors.push({ metric: name, matchers });
  }
  return { selectors, labels };
}

function tokensOf(expression: string): string[] {
  const tokens: string[] = [];
  token.lastIndex = 0;
  while (token.lastIndex < expression.length) {
    const from = token.lastIndex;
    const found = token.exec(expression)?.[0];
    if (found === undefined) throw new Error(`not understood at "${expression.slice(from, from + 20)}"`);
    if (found.trim() !== '') tokens.push(found);
  }
  return tokens;
}

/** Queries inside a template of an annotation, with their placeholders filled. */
export const queriesOf = (template: string): string[] =>
  [...template.matchAll(/`([^`]+)`/g)].map(([, query = '']) => query.replaceAll('%q', '"x"'));
