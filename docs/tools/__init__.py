"""Commands that write the generated parts of the documentation: pictures, tables and the notebook."""
