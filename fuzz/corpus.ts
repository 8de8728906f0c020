import { readFileSync } from 'node:fs'
import type { SurfaceName } from './options.ts'

/** A case that is played in every test run. */
export interface CorpusCase {
  readonly seed: number
  readonly case: number
  /** What it is there for: a bug that it found, or a corner that it reaches. */
  readonly why: string
}

/** The cases of a surface that are kept. */
export function readCorpus (surface: SurfaceName): CorpusCase[] {
  return JSON.parse(readFileSync(new URL(`./corpus/${surface}.json`, import.meta.url), 'utf8')) as CorpusCase[]
}
