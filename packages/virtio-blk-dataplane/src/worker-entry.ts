/** Where the entry of a thread is: beside this file, among the sources as in what is built of them. */
export function workerEntry (name: 'worker' | 'disk-worker'): URL {
  return new URL(import.meta.url.endsWith('.ts') ? `./${name}.ts` : `./${name}.js`, import.meta.url)
}
