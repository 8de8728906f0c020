/** Writes the reports of the public API anew, from the built declarations: npm run api */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../tools/packages.ts'
import { writeReports } from './reports.ts'

const folder = join(root, 'api')
for (const file of readdirSync(folder)) if (file.endsWith('.api.md')) rmSync(join(folder, file))
console.log(writeReports(folder).join('\n'))
