import { defineConfig } from 'tsup'
import { library } from '../../tools/tsup.ts'

export default defineConfig(library(['src/index.ts', 'src/worker.ts', 'src/disk-worker.ts']))
