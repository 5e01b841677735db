/** Offers what some listeners had no use for to others, as soon as the service shows by its digest that it has them. */
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Claims } from './claims.ts';
import type { ReplayCounts } from './counts.ts';
import { unparkForListeners, unparkProbe } from './intake-queries.ts';

interface OfferContext {
  readonly database: Database;
  readonly logger: Logger;
  readonly counts: ReplayCounts;
  readonly claims: Claims;
  mustStop(): boolean;
  onUnparked(): void;
  onFailure(error: unknown): void;
}

/**
 * How often one digest of listeners is offered what others have refused, and how often a run with nothing to send
 * asks for the digest: while two versions answer in turns, an event may meet the same one again and again.
 */
const OFFER_EVERY_MS = 60_000;
const UNPARK_PORTION = 5_000;

export class ListenerOffers {
  readonly #context: OfferContext;
  readonly #offeredAt = new Map<string, number>();
  /** The digest to which all that is parked has been offered, and since which no other one has answered. */
  #offeredTo: string | undefined;
  #unparking: Promise<void> = Promise.resolve();
  #probedAt = Number.NEGATIVE_INFINITY;

  constructor(context: OfferContext) {
    this.#context = context;
  }

  /** What listeners of other digests had no use for is offered to these; an event that they refused is not. */
  offer(digest: string): void {
    if (digest === this.#offeredTo) return;
    this.#offeredTo = undefined;
    if (Date.now() - (this.#offeredAt.get(digest) ?? Number.NEGATIVE_INFINITY) < OFFER_EVERY_MS) return;
    this.#offeredTo = digest;
    this.#offeredAt.set(digest, Date.now());
    const { counts, database, logger } = this.#context;
    const unpark = async () => {
      // What another version has refused a moment ago is among what is offered.
      await this.#context.claims.recordWaiting();
      let portion = UNPARK_PORTION;
      while (portion === UNPARK_PORTION && !this.#context.mustStop()) {
        portion = await unparkForListeners(database, digest, UNPARK_PORTION);
        counts.unparked += portion;
        if (portion > 0) {
          logger.info(
            { events: portion },
            'the service has other listeners now: parked events are taken up again',
          );
          this.#context.onUnparked();
        }
      }
    };
    this.#unparking = this.#unparking.then(unpark).catch((error: unknown) => this.#context.onFailure(error));
  }

  /**
   * With nothing to send, no digest is learnt: one of the events that wait for a listener asks for it. False where none
   * was taken up, or the service has answered lately.
   */
  async probe(mode: 'once' | 'continuous', lastAnswerAt: number): Promise<boolean> {
    const lately = mode === 'once' ? Number.NEGATIVE_INFINITY : Date.now() - OFFER_EVERY_MS;
    if (lastAnswerAt > lately || this.#probedAt > lately) return false;
    this.#probedAt = Date.now();
    return (await unparkProbe(this.#context.database)) > 0;
  }

  /** Ends when what was offered so far is due. */
  async settled(): Promise<void> {
    await this.#unparking;
  }
}
