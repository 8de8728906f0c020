// Lets `node --import tools/ts.mjs` run TypeScript sources, Worker entries included, on Node 20.
// From Node 22.18 on, Node strips types itself and this does nothing.
import { register } from 'node:module'

if (!process.features.typescript) register('./ts-hooks.mjs', import.meta.url)
