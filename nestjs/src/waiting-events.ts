import type { DeliverableEvent } from './deliveries.js';

/** An event that waits for room, and since when it is committed. */
export interface WaitingEvent {
  event: DeliverableEvent;
  since: number;
}

/** How many taken places may stand at the front before the array is cut: seldom enough to cost nothing per event. */
const CUT_AFTER = 1_024;

/**
 * Committed events between the commit and a place among those in work, first in, first out. Bounded by number and by
 * length of payload, so that no burst fills the memory: what it does not take stays pending.
 */
export class WaitingEvents {
  private events: WaitingEvent[] = [];
  private taken = 0;
  private length = 0;

  constructor(
    private readonly maxEvents: number,
    private readonly maxLength: number,
  ) {}

  get size(): number {
    return this.events.length - this.taken;
  }

  /** Says whether there was a place for it. */
  add(event: DeliverableEvent): boolean {
    const length = this.length + event.payloadText.length;
    if (this.size >= this.maxEvents || length > this.maxLength) return false;
    this.length = length;
    this.events.push({ event, since: performance.now() });
    return true;
  }

  /** The one that has waited longest. */
  take(): WaitingEvent | undefined {
    const next = this.events[this.taken];
    if (next === undefined) return undefined;
    this.taken += 1;
    this.length -= next.event.payloadText.length;
    if (this.taken === this.events.length || this.taken >= CUT_AFTER) {
      this.events = this.events.slice(this.taken);
      this.taken = 0;
    }
    return next;
  }

  /** Empties it and gives what it held. */
  clear(): DeliverableEvent[] {
    const left = this.events.slice(this.taken).map(({ event }) => event);
    this.events = [];
    this.taken = 0;
    this.length = 0;
    return left;
  }
}
