/** Reads the text format of Prometheus, as far as the exporter writes it. */

export interface Series {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export function parseSeries(text: string): Series[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const match = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (match === null) throw new Error(`no series: ${line}`);
      const [, name = '', labels = '', value = ''] = match;
      return {
        name,
        labels: Object.fromEntries(
          [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', given = '']) => [
            label,
            given,
          ]),
        ),
        value: Number(value),
      };
    });
}

/** The value of the one series with these labels among others; nothing where there is none. */
export function sampleOf(
  text: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const found = parseSeries(text).filter(
    (series) =>
      series.name === name &&
      Object.entries(labels).every(([label, value]) => series.labels[label] === value),
  );
  if (found.length > 1) throw new Error(`${found.length} series of ${name} have these labels`);
  return found[0]?.value;
}

/** The series of a metric that are not 0, as `label values joined by spaces: value`, without `installation`. */
export function nonZero(text: string, name: string): string[] {
  return parseSeries(text)
    .filter((series) => series.name === name && series.value !== 0)
    .map(
      ({ labels: { installation: _, ...labels }, value }) => `${Object.values(labels).join(' ')}: ${value}`,
    )
    .sort();
}
