// Each package from CommonJS: they are ES modules, which Node requires all the same.
const { readdirSync } = require('node:fs')
const { join } = require('node:path')

const names = readdirSync(join(__dirname, 'node_modules/@node-vmm'))
for (const name of names) {
  if (Object.keys(require(`@node-vmm/${name}`)).length === 0) throw new Error(`@node-vmm/${name} exports nothing`)
}
console.log(`all ${names.length} packages can be required`)
