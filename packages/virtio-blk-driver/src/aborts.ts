/** Waits for work, or until the signal aborts: then it goes on, and nobody hears of it. @throws what the work throws; the signal's reason */
export async function unlessAborted<Result> (work: () => Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (signal === undefined) return await work()
  signal.throwIfAborted()
  return await new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    signal.addEventListener('abort', onAbort)
    void work().then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
