import { createHash, timingSafeEqual } from 'node:crypto';

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Whether an Authorization header carries exactly this bearer token; takes the same time whatever it carries. */
export function bearerMatches(authorization: string | undefined, token: string): boolean {
  const [, given] = /^Bearer ([^\s]+)$/i.exec(authorization ?? '') ?? [];
  // Digests have one length, so the comparison tells nothing about the token's own.
  return timingSafeEqual(digest(given ?? ''), digest(token)) && given !== undefined;
}
