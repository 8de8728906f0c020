import type { Options } from 'tsup'

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
    removeNodeProtocol: false
  }
}
