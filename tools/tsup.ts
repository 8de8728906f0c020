import type { Options } from 'tsup'
import { constants } from './constants.ts'
import { fields } from './fields.ts'
import { rewriting } from './rewriting.ts'

/** The build of every package: ES modules for Node, declarations, source maps. */
export function library (entry: string[]): Options {
  return {
    entry,
    format: ['esm'],
    dts: true,
    sourcemap: true,
    clean: true,
    target: 'node20',
    platform: 'node',
    splitting: true,
    removeNodeProtocol: false,
    esbuildPlugins: [rewriting(entry, [constants, fields])],
    // A package has its sources beside: maps need no copy of what was built instead of them.
    esbuildOptions (options) { options.sourcesContent = false }
  }
}
