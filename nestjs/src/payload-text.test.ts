import { expect, test } from 'vitest';
import { PayloadRefusedError, payloadText } from './payload-text.js';

const NAME = 'services.session.completed.v1';

test('text that only looks like an escape is stored as it is', () => {
  for (const note of ['\\u0000', '\\\\ud800', 'C:\\u0000', '😀', '\u0001', '']) {
    expect(JSON.parse(payloadText(NAME, { note }))).toEqual({ note });
  }
});

test('what jsonb refuses is found wherever it stands', () => {
  const cases: [unknown, string][] = [
    ['\u0000', '$'],
    [{ a: { b: [0, ['\udc00']] } }, '$.a.b[1][0]'],
    [{ 'with space': '\u0000' }, '$["with space"]'],
    [[{ ok: 1, '\ud800': 2 }], '$[0]{key 1}'],
    [{ toJSON: () => ({ hidden: '\u0000' }) }, '$.hidden'],
  ];
  for (const [payload, path] of cases) {
    expect(() => payloadText(NAME, payload)).toThrow(
      expect.objectContaining({ name: 'PayloadRefusedError', path }),
    );
  }
});

test('a refusal names the event and the place, and not what stood there', () => {
  const error = new PayloadRefusedError(NAME, '$.note', 'a problem');
  expect(error.message).toBe(`${NAME} was not published: a problem at $.note`);
  expect(error.retryable).toBe(false);
});
