const EVENT_NAME = /^([a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*)+)\.v([1-9][0-9]{0,5})$/;

/** An event's name in its two parts. */
export interface EventName {
  /** `domain.action`: the same for every version of an event. */
  subject: string;
  version: number;
}

/** The parts of `domain.action.v1`, or undefined where the name does not have that form. */
export function parseEventName(name: string): EventName | undefined {
  const match = EVENT_NAME.exec(name);
  return match === null ? undefined : { subject: match[1] as string, version: Number(match[2]) };
}
