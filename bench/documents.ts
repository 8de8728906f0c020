import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { plotsOf } from './plots.ts'
import type { Results } from './results.ts'
import { conditions, markdownTable, tablesOf } from './tables.ts'

const DOCUMENT = fileURLToPath(new URL('../docs/performance.md', import.meta.url))
const PLOTS = fileURLToPath(new URL('../docs/performance', import.meta.url))
const BEGIN = '<!-- npm run bench: begin -->'
const END = '<!-- npm run bench: end -->'

export function writePlots (results: Results, folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const { file, svg } of plotsOf(results)) writeFileSync(join(folder, file), svg)
}

/** Puts the results between the marks of docs/performance.md. */
export function updateDocument (results: Results): void {
  writePlots(results, PLOTS)
  const text = readFileSync(DOCUMENT, 'utf8')
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error(`${DOCUMENT} has no marks ${BEGIN} and ${END}`)
  const generated = [
    ...conditions(results).map((line) => `- ${line}`), '',
    ...plotsOf(results).map(({ file, title }) => `![${title}](performance/${file})\n`),
    ...tablesOf(results).map(markdownTable)
  ].join('\n')
  writeFileSync(DOCUMENT, `${text.slice(0, begin)}${BEGIN}\n\n${generated.trimEnd()}\n\n${text.slice(end)}`)
}
