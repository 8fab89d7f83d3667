//! Cascades: graphs of networks over sites, and the engine that walks them.
