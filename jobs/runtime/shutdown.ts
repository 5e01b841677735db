/**
 * Turns SIGTERM and SIGINT into an AbortSignal, and makes sure that the process ends: a run that has not
 * stopped by the deadline is cut off here, with its own exit code, before the kubelet does it with SIGKILL.
 */
export interface Shutdown {
  /** Aborted at the first SIGTERM or SIGINT; work takes nothing new from then on. */
  readonly signal: AbortSignal;
  /** Takes the listeners off again. */
  dispose(): void;
}

/**
 * @param deadlineMs from the signal to `onDeadline`, in milliseconds
 * @param onDeadline called once when the run is still there at the deadline
 */
export function listenForShutdown(deadlineMs: number, onDeadline: () => void): Shutdown {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const stop = () => {
    if (controller.signal.aborted) return;
    controller.abort();
    timer = setTimeout(onDeadline, deadlineMs);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  return {
    signal: controller.signal,
    dispose() {
      clearTimeout(timer);
      process.off('SIGTERM', stop);
      process.off('SIGINT', stop);
    },
  };
}
