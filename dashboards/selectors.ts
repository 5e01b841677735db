/**
 * Every selector of the dashboards is made here, so that none forgets whose data it shows. Two exporters may be
 * scraped at once and tell the same: `one` takes the greater of both, never their sum.
 */

/** Of the exporter, of the recorded series and of the alerts: one installation in one namespace. */
export function own(metric: string, matchers = ''): string {
  return `${metric}{namespace="$namespace",installation="$installation"${matchers === '' ? '' : `,${matchers}`}}`;
}

/** Of the service itself, whose module knows no installation. */
export function ofService(metric: string, matchers = ''): string {
  return `${metric}{namespace="$namespace"${matchers === '' ? '' : `,${matchers}`}}`;
}

/** A series of the exporter by these labels, told once however many exporters there are. */
export function one(metric: string, labels: readonly string[], matchers = ''): string {
  return `max by (${labels.join(', ')}) (${own(metric, matchers)})`;
}

/** The recorded series of a threshold: alerts compare with the same one. */
export function threshold(what: string, matchers = ''): string {
  return `max(${own(`installation:${what}:threshold`, matchers)})`;
}

/** What is not at all there: 1 then, and nothing otherwise. */
export function unmeasured(metric: string, matchers = ''): string {
  return `absent(${own(metric, matchers)})`;
}

/** The part of `vector` within the limit. Without a threshold series it is empty, as `beyond` is: never green. */
export function within(vector: string, what: string): string {
  return `(${vector}) <= on () group_left () ${threshold(what)}`;
}

export function beyond(vector: string, what: string): string {
  return `(${vector}) > on () group_left () ${threshold(what)}`;
}

/**
 * By how much a counter read from tables has grown in this time. Such a counter begins with no pod and ends with none, so
 * the difference of two instants is exact, where `increase` would start anew with each exporter.
 */
export function growth(metric: string, labels: readonly string[], time: string, matchers = ''): string {
  const then = `max by (${labels.join(', ')}) (${own(metric, matchers)} offset ${time})`;
  return `clamp_min(${one(metric, labels, matchers)} - ${then}, 0)`;
}
