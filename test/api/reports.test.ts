// The public API as it is built, and as it was reviewed: `api/*.api.md`.
import { equal, ok } from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { COMMAND, reportName, writeReports } from '../../api/reports.ts'
import { entryPoints, packages, root } from '../../tools/packages.ts'
import { temporaryFolder } from '../support/temporary.ts'

const built = temporaryFolder()
const written = writeReports(built)
const remedy = `Where that is meant, run "${COMMAND}" and commit what it writes, with a changeset (see CONTRIBUTING.md).`

for (const entry of packages().flatMap(entryPoints)) {
  test(`${entry.name}: its public API is the one of the report`, () => {
    const report = reportName(entry)
    const reviewed = join(root, 'api', report)
    ok(written.includes(report), `${entry.types} is not built: node tools/setup.mjs`)
    ok(existsSync(reviewed), `api/${report} is missing. ${remedy}`)
    equal(readFileSync(join(built, report), 'utf8'), readFileSync(reviewed, 'utf8'), `the public API of ${entry.name} is not that of api/${report}. ${remedy}`)
  })
}

test('no report is left of what is no longer there', () => {
  const reports = readdirSync(join(root, 'api')).filter((file) => file.endsWith('.api.md'))
  equal(reports.filter((file) => !written.includes(file)).join(' '), '', remedy)
})

test.run()
