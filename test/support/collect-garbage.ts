import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** A full collection, now, in a process that was not started with `--expose-gc`. */
export function collectGarbage (): void {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
}
