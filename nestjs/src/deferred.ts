/** A promise and the function that resolves it: what is used of `Promise.withResolvers`, which Node 20 does not have. */
export function deferred<Result>(): { promise: Promise<Result>; resolve: (result: Result) => void } {
  let resolve!: (result: Result) => void;
  const promise = new Promise<Result>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
