// How fast it is, beside its peers. usage: npm run bench -- --help
import { writeFileSync } from 'node:fs'
import { root } from '../tools/packages.ts'
import { buildPrograms } from './build.ts'
import { cases } from './cases.ts'
import { updateDocument, writePlots } from './documents.ts'
import { HELP, type Options, parseOptions } from './options.ts'
import { Run } from './run.ts'
import { findServers } from './servers.ts'
import { conditions, tablesOf, textTable } from './tables.ts'

try {
  const options = parseOptions(process.argv.slice(2))
  if (options === undefined) console.log(HELP)
  else await bench(options)
  process.exit()
} catch (error) {
  console.error(`bench: ${(error as Error).message}`)
  process.exit(1)
}

async function bench (options: Options): Promise<void> {
  const { servers, missing } = findServers(options.builds)
  if (options.list) return list(servers)
  const chosen = cases.filter(({ name, quick }) => options.only.test(name) && (quick || !options.quick))
  for (const checkout of [root, ...options.builds]) await buildPrograms(checkout)
  const run = new Run(options, chosen, servers.filter(({ name }) => options.servers.test(name)), missing)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void run.close().finally(() => process.exit(1)) })
  try {
    await run.everything()
  } finally {
    await run.close()
  }

  const { results } = run
  console.log([...conditions(results), '', ...tablesOf(results).map((table) => textTable(table) + '\n')].join('\n'))
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify(results, undefined, 1))
  if (options.svg !== undefined) writePlots(results, options.svg)
  if (options.updateDocs) updateDocument(results)
}

function list (servers: readonly { readonly name: string }[]): void {
  console.log(['cases:', ...cases.map(({ name }) => `  ${name}`), 'servers:', ...servers.map(({ name }) => `  ${name}`)].join('\n'))
}
