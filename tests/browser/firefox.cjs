/**
 * Lets the driver make a page in the Firefox of the system, which lacks one command that it sends before.
 *
 * The command sets the colour scheme that a page sees. In its place goes one that asks for nothing.
 */
const { prototype } = require("node:module");
const compile = prototype._compile;
prototype._compile = function (content, ...rest) {
  return compile.call(this, content.replaceAll('"emulation.setMediaFeaturesOverride"', '"session.status"'), ...rest);
};
