//! PacketIo on AF_XDP: UMEM and rings.
